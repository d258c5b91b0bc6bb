#version 450
// Colour alone: what clean pictures cost the least with.
#include "shading.glsl"

layout(location = 0) out vec4 outColor;

void main() { outColor = shade(); }

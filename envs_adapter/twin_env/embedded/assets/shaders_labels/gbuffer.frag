#version 450
// Colour, shaded as in ../shaders, and which shape (x) of which entity (y) a pixel shows.
#include "../shaders/shading.glsl"

layout(location = 0) out vec4 outColor;
layout(location = 1) out uvec4 outSegmentation;

void main() {
  outColor = shade();
  outSegmentation = objectData.segmentation;
}

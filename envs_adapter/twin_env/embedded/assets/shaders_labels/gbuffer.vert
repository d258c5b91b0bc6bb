#version 450
#include "../shaders/gbuffer_vert.glsl"

#version 450
#include "../shaders/shadow_vert.glsl"

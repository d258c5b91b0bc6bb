#version 450
#include "gbuffer_vert.glsl"

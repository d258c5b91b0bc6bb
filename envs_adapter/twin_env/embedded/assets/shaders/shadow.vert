#version 450
#include "shadow_vert.glsl"

// Depth of the scene as the light sees it.

layout(set = 0, binding = 0) uniform LightBuffer {
  mat4 viewMatrix;
  mat4 viewMatrixInverse;
  mat4 projectionMatrix;
  mat4 projectionMatrixInverse;
  int width;
  int height;
} light;

layout(set = 1, binding = 0) uniform ObjectTransformBuffer { mat4 modelMatrix; } object;

layout(set = 1, binding = 1) uniform ObjectDataBuffer {
  uvec4 segmentation;
  float transparency;
  int shadeFlat;
} objectData;

layout(location = 0) in vec3 position;
layout(location = 1) in vec3 normal;
layout(location = 2) in vec2 uv;
layout(location = 3) in vec3 tangent;
layout(location = 4) in vec3 bitangent;

void main() {
  gl_Position =
      light.projectionMatrix * (light.viewMatrix * (object.modelMatrix * vec4(position, 1.0)));
}

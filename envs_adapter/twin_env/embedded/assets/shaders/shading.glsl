// One forward pass: hemisphere ambient, Lambert and a soft highlight from directional lights, one
// shadow map. No environment samplers: declaring them costs seconds on a CPU device. Gamma is 2,
// as in materials.py. The packs' gbuffer.frag include this and write what they output.

layout(constant_id = 0) const int NUM_DIRECTIONAL_LIGHTS = 0;
layout(constant_id = 1) const int NUM_DIRECTIONAL_LIGHT_SHADOWS = 0;
layout(constant_id = 2) const int NUM_POINT_LIGHTS = 0;
layout(constant_id = 3) const int NUM_POINT_LIGHT_SHADOWS = 0;
layout(constant_id = 4) const int NUM_SPOT_LIGHTS = 0;
layout(constant_id = 5) const int NUM_SPOT_LIGHT_SHADOWS = 0;
layout(constant_id = 6) const int NUM_TEXTURED_LIGHT_SHADOWS = 0;

layout(set = 0, binding = 0) uniform CameraBuffer {
  mat4 viewMatrix;
  mat4 projectionMatrix;
  mat4 viewMatrixInverse;
  mat4 projectionMatrixInverse;
  float width;
  float height;
} camera;

layout(set = 1, binding = 0) uniform ObjectTransformBuffer { mat4 modelMatrix; } object;

layout(set = 1, binding = 1) uniform ObjectDataBuffer {
  uvec4 segmentation;
  float transparency;
  int shadeFlat;
} objectData;

layout(set = 2, binding = 0) uniform MaterialBuffer {
  vec4 emission;
  vec4 baseColor;
  float fresnel;
  float roughness;
  float metallic;
  float transmission;
  float ior;
  float transmissionRoughness;
  int textureMask;
  int padding1;
  vec4 textureTransforms[6];
} material;

layout(set = 2, binding = 1) uniform sampler2D colorTexture;
layout(set = 2, binding = 2) uniform sampler2D roughnessTexture;
layout(set = 2, binding = 3) uniform sampler2D normalTexture;
layout(set = 2, binding = 4) uniform sampler2D metallicTexture;
layout(set = 2, binding = 5) uniform sampler2D emissionTexture;
layout(set = 2, binding = 6) uniform sampler2D transmissionTexture;

struct PointLight { vec4 position; vec4 emission; };
struct DirectionalLight { vec4 direction; vec4 emission; };
struct SpotLight { vec4 position; vec4 direction; vec4 emission; };
struct LightBuffer {
  mat4 viewMatrix;
  mat4 viewMatrixInverse;
  mat4 projectionMatrix;
  mat4 projectionMatrixInverse;
  int width;
  int height;
};

layout(set = 3, binding = 0) uniform SceneBuffer {
  vec4 ambientLight;
  DirectionalLight directionalLights[3];
  SpotLight spotLights[10];
  PointLight pointLights[10];
  SpotLight texturedLights[1];
} scene;

layout(set = 3, binding = 1) uniform ShadowBuffer {
  LightBuffer directionalLightBuffers[1];
  LightBuffer spotLightBuffers[10];
  LightBuffer pointLightBuffers[18];
  LightBuffer texturedLightBuffers[1];
} shadow;

layout(set = 3, binding = 2) uniform samplerCube samplerPointLightDepths[3];
layout(set = 3, binding = 3) uniform sampler2D samplerDirectionalLightDepths[1];
layout(set = 3, binding = 4) uniform sampler2D samplerTexturedLightDepths[1];
layout(set = 3, binding = 5) uniform sampler2D samplerSpotLightDepths[10];
layout(set = 3, binding = 6) uniform sampler2D samplerTexturedLightTextures[1];

layout(location = 0) in vec3 worldPosition;
layout(location = 1) in vec3 worldNormal;
layout(location = 2) in vec2 texcoord;

const float SHADOW_BIAS = 0.0015;
const vec3 GROUND_TINT = vec3(0.62, 0.60, 0.58);

// Share of the light that arrives: four texels, weighted by where the point falls between them.
float visibilityOf(int i) {
  vec4 p = shadow.directionalLightBuffers[i].projectionMatrix *
           (shadow.directionalLightBuffers[i].viewMatrix * vec4(worldPosition, 1.0));
  vec3 at = vec3(p.xy * 0.5 + 0.5, p.z) / p.w;
  if (at.z > 1.0) return 1.0;  // Below the table: beyond the shadow map's far plane.
  if (any(lessThan(at.xy, vec2(0.0))) || any(greaterThan(at.xy, vec2(1.0)))) return 1.0;
  ivec2 size = textureSize(samplerDirectionalLightDepths[i], 0);
  vec2 texel = at.xy * vec2(size) - 0.5;
  ivec2 corner = clamp(ivec2(floor(texel)), ivec2(0), size - 2);
  vec2 f = clamp(texel - vec2(corner), 0.0, 1.0);
  float depth = at.z - SHADOW_BIAS;
  float a = step(depth, texelFetch(samplerDirectionalLightDepths[i], corner, 0).x);
  float b = step(depth, texelFetch(samplerDirectionalLightDepths[i], corner + ivec2(1, 0), 0).x);
  float c = step(depth, texelFetch(samplerDirectionalLightDepths[i], corner + ivec2(0, 1), 0).x);
  float d = step(depth, texelFetch(samplerDirectionalLightDepths[i], corner + ivec2(1, 1), 0).x);
  return mix(mix(a, b, f.x), mix(c, d, f.x), f.y);
}

vec4 shade() {
  vec4 albedo = material.baseColor;
  if ((material.textureMask & 1) != 0) {
    albedo = texture(colorTexture, texcoord * material.textureTransforms[0].zw +
                                       material.textureTransforms[0].xy);
  }
  vec3 n = normalize(worldNormal);
  vec3 toEye = normalize(camera.viewMatrixInverse[3].xyz - worldPosition);
  float gloss = 1.0 - clamp(material.roughness, 0.0, 1.0);

  vec3 color = material.emission.rgb +
               albedo.rgb * scene.ambientLight.rgb * mix(GROUND_TINT, vec3(1.0), 0.5 + 0.5 * n.z);
  for (int i = 0; i < NUM_DIRECTIONAL_LIGHTS; ++i) {
    vec3 toLight = -scene.directionalLights[i].direction.xyz;
    float lambert = dot(n, toLight);
    if (lambert <= 0.0) continue;
    float visibility = i < NUM_DIRECTIONAL_LIGHT_SHADOWS ? visibilityOf(i) : 1.0;
    float highlight = max(dot(n, normalize(toLight + toEye)), 0.0);
    highlight *= highlight;
    highlight *= highlight;
    highlight *= highlight;
    highlight *= 0.4 * gloss * highlight;
    color += visibility * scene.directionalLights[i].emission.rgb *
             (albedo.rgb * lambert + highlight);
  }
  return vec4(sqrt(clamp(color, 0.0, 1.0)), 1.0);
}

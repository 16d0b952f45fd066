// Where rays meet the ground, compiled: the search that height_rays.py explains, for one core at a time.
//
// No header of Python or PyTorch is needed: ctypes loads the library, which is built as a Python extension only because
// installers can build those. Without a compiler the same is done in PyTorch, several times slower.
//
// Lengths: horizontally cells of the grid, vertically metres. Arithmetic is float32 without contraction (setup.py), so
// that a ray's result does not depend on the compiler or on which rays are cast with it.

#include <math.h>
#include <stdint.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

// Two versions of one function, of which the processor's own is taken. Both round alike.
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define VECTORISED
#endif

// The C of Microsoft's compiler, before C11
#if defined(_MSC_VER) && !defined(__clang__)
#define restrict __restrict
#endif

// To be raised when an exported signature changes: height_rays.py refuses any other number.
#define HEIGHT_RAYS_ABI 1

#define BLOCK 64          // rays that are searched for together, for the sake of vector instructions
#define QUICK_STEPS 3     // of the search, that all rays take
#define MORE_STEPS 6      // of those that have not found their triangle by then
#define TOLERANCE 5e-6f   // m: the search has found the triangle when it moves by less
#define FREE_STEPS 4      // through free air, before a grazing ray is followed from edge to edge
#define ROUNDING 1e-3f    // cells: more than float32 rounds a place on the field by


typedef struct {
  const float* heights;  // (n, n) m, row along y
  int n;
} Field;

typedef struct {
  float x, y, z;
} Vector;


EXPORT int height_rays_abi(void) {
  return HEIGHT_RAYS_ABI;
}


static Vector along(Vector origin, float t, Vector direction) {
  Vector point = {origin.x + t * direction.x, origin.y + t * direction.y, origin.z + t * direction.z};
  return point;
}


// Index of the cell that a coordinate lies in; the outermost ones go on beside the field, also for NaN.
static inline int cell_of(float coordinate, int n) {
  float last = (float)(n - 2);
  float inside = coordinate > 0.0f ? coordinate : 0.0f;
  return (int)(inside < last ? inside : last);
}


// Height over the plane of the triangle below x, y, z in m, and its rate of change along the ray, in *rate.
static inline float height_above(const float* restrict heights, int n, float x, float y, float z, float dx, float dy,
                                 float dz, float* rate) {
  int column = cell_of(x, n), row = cell_of(y, n);
  float u = x - (float)column, v = y - (float)row;
  int corner = row * n + column;
  float near = heights[corner], far = heights[corner + n + 1];
  float side_x = heights[corner + 1], side_y = heights[corner + n];
  float slope_x = u > v ? side_x - near : far - side_y;
  float slope_y = u > v ? far - side_x : side_y - near;
  *rate = dz - dx * slope_x - dy * slope_y;
  return z - near - u * slope_x - v * slope_y;
}


static inline float above(const Field* field, Vector point, Vector d, float* rate) {
  return height_above(field->heights, field->n, point.x, point.y, point.z, d.x, d.y, d.z, rate);
}


// Whether there is no ground below; the field's edge belongs to it, also after rounding.
static int beside(const Field* field, Vector point) {
  float last = (float)(field->n - 1) + ROUNDING;
  return !(point.x >= -ROUNDING && point.y >= -ROUNDING && point.x <= last && point.y <= last);
}


// Time at which the coordinate `at` + t * `speed` is at the next whole number after time t; infinite if it stands still.
static float next_edge(float at, float speed, float t) {
  if (speed == 0.0f) {
    return INFINITY;
  }
  float now = at + t * speed;
  float edge = speed > 0.0f ? floorf(now) + 1.0f : ceilf(now) - 1.0f;
  float time = (edge - at) / speed;
  if (time <= t) {  // rounding put the edge at or before where we are
    time = (edge + (speed > 0.0f ? 1.0f : -1.0f) - at) / speed;
  }
  return time;
}


// The first hit of a ray that may graze the ground, from edge to edge of the triangles. Between two edges the height
// above ground is linear, so its values there tell.
static float walk(const Field* field, Vector o, Vector d, float slope, float limit) {
  float t = 0.0f, rate;
  // nowhere does the ground come nearer faster than this
  float approach = slope - d.z;
  for (int k = 0; k < FREE_STEPS; k++) {
    float height = above(field, along(o, t, d), d, &rate);
    t += height > 0.0f ? height / approach : 0.0f;
  }
  if (!beside(field, along(o, t, d)) && above(field, along(o, t, d), d, &rate) <= 0.0f) {
    return t < limit ? t : limit;
  }
  while (t < limit) {
    float late = next_edge(o.x, d.x, t);
    late = fminf(late, next_edge(o.y, d.y, t));
    late = fminf(late, next_edge(o.x - o.y, d.x - d.y, t));
    if (!(late > t)) {
      break;  // less than float32 can tell apart
    }
    if (late > limit) {
      late = limit;
    }
    Vector point = along(o, late, d);
    if (!beside(field, point) && above(field, point, d, &rate) <= 0.0f) {
      float middle = t + (late - t) * 0.5f;  // in the triangle in which it happens
      float height = above(field, along(o, middle, d), d, &rate);
      // from beside the field into its flank: no triangle
      float hit = rate < 0.0f && !beside(field, along(o, middle, d)) ? middle - height / rate : late;
      return fminf(fmaxf(hit, t), late);
    }
    t = late;
  }
  return limit;
}


// The quick search of up to BLOCK rays of one origin: times t, from the guesses there, and how far the last step went.
VECTORISED static void search(const float* restrict heights, int n, Vector o, int count, const float* restrict dx,
                              const float* restrict dy, const float* restrict dz, float* restrict t,
                              float* restrict moved) {
  for (int k = 0; k < QUICK_STEPS; k++) {
    for (int i = 0; i < count; i++) {
      float rate;
      float height = height_above(heights, n, o.x + t[i] * dx[i], o.y + t[i] * dy[i], o.z + t[i] * dz[i], dx[i], dy[i],
                                  dz[i], &rate);
      rate = rate < -1e-6f ? rate : -1e-6f;  // of rays that graze nothing comes of this, but it stays finite
      moved[i] = height / rate;
      t[i] -= moved[i];
    }
  }
}


// The smallest t in [0, limit] at which each ray is on or below the ground; `limit` where there is none.
//
//   heights      (terrains, n, n) m
//   steepest     (terrains,) slope of the steepest triangle, m per cell
//   tilts_x, _y  (groups,) slope of the ground around each origin, m per cell
//   terrains     (groups,) each in range
//   origins      (groups, 3)
//   directions   (groups, 3, rays)
//   limits, met  (groups, rays)
EXPORT void height_rays_meet(int32_t n, const float* heights, const float* steepest, const float* tilts_x,
                             const float* tilts_y, const int64_t* terrains, const float* origins,
                             const float* directions, const float* limits, float* met, int64_t groups, int64_t rays) {
  for (int64_t g = 0; g < groups; g++) {
    Field field = {heights + terrains[g] * n * n, n};
    Vector o = {origins[3 * g], origins[3 * g + 1], origins[3 * g + 2]};
    float rate, tilt_x = tilts_x[g], tilt_y = tilts_y[g], steep = steepest[terrains[g]];
    float clearance = above(&field, o, o, &rate);
    int buried = clearance <= 0.0f && !beside(&field, o);
    for (int64_t start = 0; start < rays; start += BLOCK) {
      const float *dx = directions + 3 * g * rays + start, *dy = dx + rays, *dz = dy + rays;
      const float* limit = limits + g * rays + start;
      float* out = met + g * rays + start;
      int count = rays - start < BLOCK ? (int)(rays - start) : BLOCK;
      float t[BLOCK], moved[BLOCK];
      for (int i = 0; i < count; i++) {
        // a first guess: where the ray meets a plane like the ground around
        float guess = clearance / (dx[i] * tilt_x + dy[i] * tilt_y - dz[i]);
        guess = guess > 0.0f ? guess : 0.0f;
        t[i] = guess < limit[i] ? guess : limit[i];
      }
      search(field.heights, n, o, count, dx, dy, dz, t, moved);
      for (int i = 0; i < count; i++) {
        Vector d = {dx[i], dy[i], dz[i]};
        float slope = sqrtf(d.x * d.x + d.y * d.y) * steep;
        if (buried) {
          out[i] = 0.0f;
        } else if (clearance > limit[i] * (slope - d.z)) {  // even the steepest ground does not reach it
          out[i] = limit[i];
        } else {
          int falls = slope < -d.z;  // whatever the ground does, it comes nearer: there is one hit
          for (int k = 0; falls && k < MORE_STEPS && fabsf(moved[i]) > TOLERANCE; k++) {
            float height = above(&field, along(o, t[i], d), d, &rate);
            moved[i] = height / rate;
            t[i] -= moved[i];
          }
          if (falls && fabsf(moved[i]) <= TOLERANCE) {
            out[i] = t[i] > 0.0f ? t[i] : 0.0f;
            if (out[i] >= limit[i] || beside(&field, along(o, out[i], d))) {
              out[i] = limit[i];
            }
          } else {
            out[i] = walk(&field, o, d, slope, limit[i]);
          }
        }
      }
    }
  }
}


// setuptools tells the Windows linker to export this name, so it has to exist; it is never imported as a module.
EXPORT void* PyInit__height_rays(void) {
  return 0;
}

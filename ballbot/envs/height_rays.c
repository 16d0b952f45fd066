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
#define HEIGHT_RAYS_ABI 2

#define BLOCK 64          // rays that are searched for together, for the sake of vector instructions
#define QUICK_STEPS 3     // of the search, that all rays take
#define MORE_STEPS 6      // of those that have not found their triangle by then
#define TOLERANCE 5e-6f   // m: the search has found the triangle when it moves by less
#define FREE_STEPS 4      // through free air, before a grazing ray is followed from edge to edge
#define ROUNDING 1e-3f    // cells: more than float32 rounds a place on the field by
#define CLIFF 0.03f       // m per cell: a field with steeper places is searched tile by tile
#define TILE 4            // cells along a tile's side; of 3 to 8 the fastest
#define EARLIER 1e-5f     // m: more than float32 rounds a time by


typedef struct {
  const float* heights;    // (n, n) m, row along y
  int n;
  const float* tile_tops;  // (tiles, tiles) m, highest vertex of each tile, its edge included
  const float* tile_steepest;  // (tiles, tiles) slope of the steepest triangle of each, m per cell
  int tiles;               // along a side
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


// Whether a point lies this far beside the field, or farther.
static int off(const Field* field, Vector point, float margin) {
  float last = (float)(field->n - 1) + margin;
  return !(point.x >= -margin && point.y >= -margin && point.x <= last && point.y <= last);
}


// Whether there is no ground below; the field's edge belongs to it, also after rounding.
static int beside(const Field* field, Vector point) {
  return off(field, point, ROUNDING);
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


// The first hit of a ray after time t, from edge to edge of the triangles. Between two edges the height above ground is
// linear, so its values there tell.
static float walk(const Field* field, Vector o, Vector d, float t, float limit) {
  float rate;
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


// The first hit of a ray that may graze the ground. Nowhere does the ground come nearer faster than `slope` - d.z.
static float graze(const Field* field, Vector o, Vector d, float slope, float limit) {
  float t = 0.0f, rate;
  for (int k = 0; k < FREE_STEPS; k++) {
    float height = above(field, along(o, t, d), d, &rate);
    t += height > 0.0f ? height / (slope - d.z) : 0.0f;
  }
  return walk(field, o, d, t, limit);
}


static int tile_of(const Field* field, Vector point) {
  return cell_of(point.y, field->n) / TILE * field->tiles + cell_of(point.x, field->n) / TILE;
}


// The first hit of a ray that begins on the field, where one steep place says little of the rest: from tile to tile.
// Most are too low to reach it, or so gentle that it comes down on them all the way; in the others it is followed from
// edge to edge. Until time t there is nothing; `found` says that at `limit` it has come down on the ground, maybe not for
// the first time.
static float march(const Field* field, Vector o, Vector d, float t, float limit, int found) {
  float per_x = 1.0f / d.x, per_y = 1.0f / d.y, per_z = 1.0f / d.z, rate;
  float drop = d.z < 0.0f ? -d.z / sqrtf(d.x * d.x + d.y * d.y) : 0.0f;  // m per cell
  int column = cell_of(o.x + t * d.x, field->n) / TILE, row = cell_of(o.y + t * d.y, field->n) / TILE;
  int step_x = d.x > 0.0f ? 1 : -1, step_y = d.y > 0.0f ? 1 : -1, last = field->n - 1;
  for (;;) {
    // where it leaves the tile, or the field; one that is parallel to a side never does there
    int side_x = (column + (step_x > 0)) * TILE, side_y = (row + (step_y > 0)) * TILE;
    float time_x = d.x == 0.0f ? INFINITY : ((float)(side_x < last ? side_x : last) - o.x) * per_x;
    float time_y = d.y == 0.0f ? INFINITY : ((float)(side_y < last ? side_y : last) - o.y) * per_y;
    float leaves = fminf(time_x, time_y), late = fmaxf(fminf(leaves, limit), t);
    int tile = row * field->tiles + column;
    float top = field->tile_tops[tile];
    if (o.z + (d.z < 0.0f ? late : t) * d.z <= top) {
      int comes_down = field->tile_steepest[tile] < drop;
      if (!comes_down || !((found && late >= limit) || above(field, along(o, late, d), d, &rate) > 0.0f)) {
        // above all of the tile until then
        float early = d.z < 0.0f ? fminf(fmaxf((top - o.z) * per_z - EARLIER, t), late) : t;
        float hit = walk(field, o, d, early, late);
        if (hit < late) {
          return hit;
        }
      }
    }
    if (leaves >= limit) {
      return limit;
    }
    if (time_x <= time_y) {
      column += step_x;
    } else {
      row += step_y;
    }
    if (column < 0 || row < 0 || column >= field->tiles || row >= field->tiles) {
      return limit;  // beside the field there is no ground
    }
    t = late;
  }
}


// Highest vertex of the tiles between two places on the field, m.
static float roof_of(const Field* field, float low_x, float low_y, float high_x, float high_y) {
  int n = field->n, tiles = field->tiles;
  int right = cell_of(high_x, n) / TILE, last = cell_of(high_y, n) / TILE;
  float roof = -INFINITY;
  for (int row = cell_of(low_y, n) / TILE; row <= last; row++) {
    for (int column = cell_of(low_x, n) / TILE; column <= right; column++) {
      roof = fmaxf(roof, field->tile_tops[row * tiles + column]);
    }
  }
  return roof;
}


// What `march` finds of up to BLOCK rays of one origin, whose times in `met` are what it calls `limit`.
static void march_all(const Field* field, Vector o, int count, const float* restrict dx, const float* restrict dy,
                      const float* restrict dz, const int* restrict found, float* restrict met) {
  float low_x = o.x, low_y = o.y, high_x = o.x, high_y = o.y;
  for (int i = 0; i < count; i++) {
    float x = o.x + met[i] * dx[i], y = o.y + met[i] * dy[i];
    low_x = fminf(low_x, x), low_y = fminf(low_y, y), high_x = fmaxf(high_x, x), high_y = fmaxf(high_y, y);
  }
  // above all ground around there is nothing to be met
  float roof = roof_of(field, low_x, low_y, high_x, high_y);
  for (int i = 0; i < count; i++) {
    float above_roof = o.z - roof;
    if (above_roof + met[i] * dz[i] < -TOLERANCE || above_roof < 0.0f) {
      float early = above_roof > 0.0f && dz[i] < 0.0f ? fmaxf(above_roof / -dz[i] - EARLIER, 0.0f) : 0.0f;
      Vector d = {dx[i], dy[i], dz[i]};
      int tile = tile_of(field, along(o, early, d));
      float steepest = field->tile_steepest[tile];
      int comes_down = d.z < 0.0f && (d.x * d.x + d.y * d.y) * steepest * steepest < d.z * d.z;
      if (!(found[i] && comes_down && tile == tile_of(field, along(o, met[i], d)))) {
        met[i] = march(field, o, d, early, met[i], found[i]);
      }
    }
  }
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
//   tile_tops    (terrains, tiles, tiles) m, highest vertex of each tile, its edge included; null, and the next one,
//                where no field has cliffs
//   tile_steeps  (terrains, tiles, tiles) slope of the steepest triangle of each, m per cell
//   tilts_x, _y  (groups,) slope of the ground around each origin, m per cell
//   terrains     (groups,) each in range
//   origins      (groups, 3)
//   directions   (groups, 3, rays)
//   limits, met  (groups, rays)
EXPORT void height_rays_meet(int32_t n, const float* heights, const float* steepest, const float* tile_tops,
                             const float* tile_steeps, const float* tilts_x, const float* tilts_y,
                             const int64_t* terrains, const float* origins, const float* directions,
                             const float* limits, float* met, int64_t groups, int64_t rays) {
  int tiles = (n - 2) / TILE + 1;
  for (int64_t g = 0; g < groups; g++) {
    int64_t first_tile = terrains[g] * tiles * tiles;
    Field field = {heights + terrains[g] * n * n, n, 0, 0, tiles};
    if (tile_tops) {
      field.tile_tops = tile_tops + first_tile;
      field.tile_steepest = tile_steeps + first_tile;
    }
    Vector o = {origins[3 * g], origins[3 * g + 1], origins[3 * g + 2]};
    float rate, tilt_x = tilts_x[g], tilt_y = tilts_y[g], steep = steepest[terrains[g]];
    float clearance = above(&field, o, o, &rate);
    int outside = beside(&field, o), buried = clearance <= 0.0f && !outside;
    int in_tiles = tile_tops && steep > CLIFF && !outside;
    for (int64_t start = 0; start < rays; start += BLOCK) {
      const float *dx = directions + 3 * g * rays + start, *dy = dx + rays, *dz = dy + rays;
      const float* limit = limits + g * rays + start;
      float* out = met + g * rays + start;
      int count = rays - start < BLOCK ? (int)(rays - start) : BLOCK;
      float t[BLOCK], moved[BLOCK];
      int found[BLOCK] = {0};  // a hit, though not the first one unless the ray falls
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
        int falls = slope < -d.z;  // whatever the ground does, it comes nearer: there is one hit
        if (buried) {
          out[i] = 0.0f;
        } else if (clearance > limit[i] * (slope - d.z)) {  // even the steepest ground does not reach it
          out[i] = limit[i];
        } else if (in_tiles || falls) {
          for (int k = 0; k < MORE_STEPS && fabsf(moved[i]) > TOLERANCE; k++) {
            float height = above(&field, along(o, t[i], d), d, &rate);
            moved[i] = height / rate;
            t[i] -= moved[i];
          }
          out[i] = t[i] > 0.0f ? t[i] : 0.0f;
          found[i] = fabsf(moved[i]) <= TOLERANCE && (falls || t[i] > 0.0f);
          if (!found[i] && !in_tiles) {
            out[i] = graze(&field, o, d, slope, limit[i]);
          } else if (!found[i] || out[i] >= limit[i] || off(&field, along(o, out[i], d), in_tiles ? 0.0f : ROUNDING)) {
            out[i] = limit[i];
            found[i] = 0;
          }
        } else {
          out[i] = graze(&field, o, d, slope, limit[i]);
        }
      }
      if (in_tiles && !buried) {
        march_all(&field, o, count, dx, dy, dz, found, out);
      }
    }
  }
}


// setuptools tells the Windows linker to export this name, so it has to exist; it is never imported as a module.
EXPORT void* PyInit__height_rays(void) {
  return 0;
}

// Sphere-capsule contacts whose first friction direction is the capsule's axis.
//
// A drop-in for the entry [mjGEOM_SPHERE][mjGEOM_CAPSULE] of MuJoCo's table mjCOLLISIONFUNC. It calls the
// collider it replaces and then fills mjPreContact.tangent, which MuJoCo's own leaves zero. See README.md.
//
// No header of MuJoCo or Python is needed: where things lie in MuJoCo's structs is measured at run time
// (layout.py) and handed over once, so one compiled file serves every MuJoCo with this collider signature.
// ctypes loads the library; it is built as a Python extension only because installers can build those.

#include <stddef.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

// To be raised when an exported signature changes: contact_fix.py refuses any other number.
#define CONTACT_FIX_ABI 1

// mjfCollision of mjdata.h, with the structs opaque and mjtNum a double (layout.py checks both).
typedef int (*Collider)(const void* m, void* d, void* con, int g1, int g2, double margin);

// Squared sine of the angle between axis and normal below which the axis gives no tangent: 1e-5 rad.
#define MIN_SINE_SQUARED 1e-10

// Written before the table entry, only read by the collider: safe from any number of threads.
static Collider original;
static size_t geom_xmat_offset;  // of the pointer geom_xmat in mjData
static size_t cone_offset;       // of the int opt.cone in mjModel
static int elliptic;             // the value mjCONE_ELLIPTIC
static size_t contact_size;      // sizeof(mjPreContact)
static size_t normal_offset;     // in mjPreContact
static size_t tangent_offset;    // in mjPreContact


EXPORT int contact_fix_abi(void) {
  return CONTACT_FIX_ABI;
}


EXPORT int contact_fix_collide(const void* m, void* d, void* con, int g1, int g2, double margin) {
  int ncon = original(m, d, con, g1, g2, margin);

  // A pyramid's edges follow the tangents even if friction is isotropic: such models stay as they were.
  int cone;
  memcpy(&cone, (const char*)m + cone_offset, sizeof(cone));
  if (cone != elliptic) {
    return ncon;
  }

  const double* geom_xmat;
  memcpy(&geom_xmat, (const char*)d + geom_xmat_offset, sizeof(geom_xmat));
  const double* mat = geom_xmat + 9 * (size_t)g2;  // geoms come ordered by type: g2 is the capsule
  const double axis[3] = {mat[2], mat[5], mat[8]};

  for (int i = 0; i < ncon; i++) {
    char* contact = (char*)con + i * contact_size;
    double normal[3];
    memcpy(normal, contact + normal_offset, sizeof(normal));

    // Sphere straight beyond the capsule's end: no tangent is along the axis, and mju_makeFrame would make a
    // skewed frame of it. Left zero, it chooses one.
    double x = axis[1] * normal[2] - axis[2] * normal[1];
    double y = axis[2] * normal[0] - axis[0] * normal[2];
    double z = axis[0] * normal[1] - axis[1] * normal[0];
    if (x * x + y * y + z * z >= MIN_SINE_SQUARED) {
      memcpy(contact + tangent_offset, axis, sizeof(axis));  // mju_makeFrame makes it orthogonal to the normal
    }
  }
  return ncon;
}


// Sets what the collider needs; to be called before its address goes into the table.
EXPORT void contact_fix_configure(Collider original_, size_t geom_xmat_offset_, size_t cone_offset_,
                                  int elliptic_, size_t contact_size_, size_t normal_offset_,
                                  size_t tangent_offset_) {
  original = original_;
  geom_xmat_offset = geom_xmat_offset_;
  cone_offset = cone_offset_;
  elliptic = elliptic_;
  contact_size = contact_size_;
  normal_offset = normal_offset_;
  tangent_offset = tangent_offset_;
}


// The collider this one calls, or NULL: lets a reloaded Python module find what its predecessor replaced.
EXPORT Collider contact_fix_original(void) {
  return original;
}


// setuptools tells the Windows linker to export this name, so it has to exist; it is never imported as a module.
EXPORT void* PyInit__contact_fix(void) {
  return NULL;
}

// Depth images of the robot's cameras, cast as rays: ballbot/envs/depth_camera.py and height_rays.c again, for one robot.
//
// A pixel is the nearest of three things along its ray: the robot itself, which its cameras always see alike; the ball; and
// the ground, a height field of two triangles a cell.  Along x and y lengths are in cells there, along z in m.

const QUICK_STEPS = 9, TOLERANCE = 5e-6; // of the search, m
const FREE_STEPS = 4; // through free air, before a grazing ray is followed from edge to edge
const ROUNDING = 1e-3; // cells

class Ground {
  constructor(heights, size) {
    Object.assign(this, { heights, size, rate: 0, steepest: 0 });
    const h = heights;
    for (let j = 0; j < size - 1; j++) for (let i = 0; i < size - 1; i++) {
      const k = j * size + i, below = (h[k + 1] - h[k]) ** 2 + (h[k + size + 1] - h[k + 1]) ** 2;
      const above = (h[k + size + 1] - h[k + size]) ** 2 + (h[k + size] - h[k]) ** 2;
      this.steepest = Math.max(this.steepest, below, above);
    }
    this.steepest = Math.sqrt(this.steepest);
  }

  above(x, y, z, dx, dy, dz) { // m over the plane of the triangle below; in rate how fast that changes along the ray
    const { heights: h, size: n } = this, i = Math.min(Math.max(Math.floor(x), 0), n - 2), j = Math.min(Math.max(Math.floor(y), 0), n - 2);
    const u = x - i, v = y - j, k = j * n + i, near = h[k], far = h[k + n + 1];
    const alongX = u > v ? h[k + 1] - near : far - h[k + n], alongY = u > v ? far - h[k + 1] : h[k + n] - near;
    this.rate = dz - dx * alongX - dy * alongY;
    return z - near - u * alongX - v * alongY;
  }

  beside(x, y) {
    const last = this.size - 1 + ROUNDING;
    return !(x >= -ROUNDING && y >= -ROUNDING && x <= last && y <= last);
  }

  meet(x, y, z, dx, dy, dz, limit) { // how far the ray goes, at most to the limit
    const clearance = this.above(x, y, z, dx, dy, dz);
    if (clearance <= 0 && !this.beside(x, y)) return 0;
    const slope = Math.hypot(dx, dy) * this.steepest;
    if (clearance > limit * (slope - dz)) return limit; // even the steepest ground does not reach it
    if (slope >= -dz) return this.graze(x, y, z, dx, dy, dz, slope, limit);
    let t = Math.min(clearance / Math.max(-this.rate, 1e-6), limit);
    for (let k = 0; k < QUICK_STEPS; k++) { // to where it meets the plane of the triangle below, again and again
      const height = this.above(x + t * dx, y + t * dy, z + t * dz, dx, dy, dz);
      const moved = height / Math.min(this.rate, -1e-6);
      t -= moved;
      if (Math.abs(moved) < TOLERANCE) {
        t = Math.min(Math.max(t, 0), limit);
        return this.beside(x + t * dx, y + t * dy) ? limit : t;
      }
    }
    return this.graze(x, y, z, dx, dy, dz, slope, limit);
  }

  graze(x, y, z, dx, dy, dz, slope, limit) { // where hills may hide what is behind them
    let t = 0;
    for (let k = 0; k < FREE_STEPS; k++) t += Math.max(this.above(x + t * dx, y + t * dy, z + t * dz, dx, dy, dz), 0) / Math.max(slope - dz, 1e-9);
    const under = (at) => !this.beside(x + at * dx, y + at * dy) && this.above(x + at * dx, y + at * dy, z + at * dz, dx, dy, dz) <= 0;
    const edge = (at, speed, now) => {
      if (speed === 0) return Infinity;
      const here = at + now * speed, way = Math.sign(speed), next = speed > 0 ? Math.floor(here) + 1 : Math.ceil(here) - 1, time = (next - at) / speed;
      return time <= now ? (next + way - at) / speed : time; // rounding put the edge where we are
    };
    while (t < limit) { // between two edges the height above ground is linear
      const late = Math.min(edge(x, dx, t), edge(y, dy, t), edge(x - y, dx - dy, t), limit);
      if (!(late > t)) break;
      if (under(late)) {
        const middle = (t + late) / 2, height = this.above(x + middle * dx, y + middle * dy, z + middle * dz, dx, dy, dz);
        const hit = this.rate < 0 && !this.beside(x + middle * dx, y + middle * dy) ? middle - height / this.rate : late;
        return Math.min(Math.max(hit, t), late);
      }
      t = late;
    }
    return limit;
  }
}

export class DepthCameras {
  // how: {shape, fovy_deg, positions, axes (rows, camera to base), ball_radius, max_depth}; own: depth of the robot itself
  constructor(how, own) {
    Object.assign(this, how, { own });
    const [cameras, height, width] = how.shape, half = Math.tan(how.fovy_deg * Math.PI / 360);
    this.pixels = Array.from({ length: height * width }, (_, k) => [
      ((2 * (k % width) + 1) / width - 1) * half * width / height, (1 - (2 * Math.floor(k / width) + 1) / height) * half,
    ]);
    this.images = new Float32Array(cameras * height * width);
  }

  stand(heights, size, length) { // on this ground, m
    Object.assign(this, { ground: new Ground(heights, size), perMetre: (size - 1) / length, half: length / 2 });
  }

  look(position, rotation, ball) { // images, m along the optical axes; rotation by rows, base to world
    const { pixels, own, images, ground, perMetre } = this, turned = (v) => rotation.map((row) => row[0] * v[0] + row[1] * v[1] + row[2] * v[2]);
    this.positions.forEach((place, camera) => {
      const eye = turned(place).map((x, k) => x + position[k]), axes = [0, 1, 2].map((c) => turned(this.axes[camera].map((row) => row[c])));
      const [right, up, back] = axes, toBall = ball.map((x, k) => x - eye[k]);
      const [bx, by, bz] = axes.map((axis) => axis[0] * toBall[0] + axis[1] * toBall[1] + axis[2] * toBall[2]);
      const power = bx * bx + by * by + bz * bz - this.ball_radius ** 2, first = camera * pixels.length;
      const ex = (eye[0] + this.half) * perMetre, ey = (eye[1] + this.half) * perMetre;
      for (let k = 0; k < pixels.length; k++) {
        const [px, py] = pixels[k], squared = px * px + py * py + 1, along = px * bx + py * by - bz, inside = along * along - squared * power;
        let near = own[first + k];
        if (inside > 0) {
          const depth = (along - Math.sqrt(inside)) / squared;
          if (depth > 0 && depth < near) near = depth;
        }
        const dx = px * right[0] + py * up[0] - back[0], dy = px * right[1] + py * up[1] - back[1], dz = px * right[2] + py * up[2] - back[2];
        images[first + k] = ground.meet(ex, ey, eye[2], dx * perMetre, dy * perMetre, dz, near);
      }
    });
    return images;
  }
}

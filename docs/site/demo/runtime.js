// Drive a robot with an exported policy, in JavaScript: ballbot/deployment/runtime.py again, the same observations, states
// and torques.  docs/deployment.md is the contract: units, axes, rates, limits.
//
//     const controller = new Controller(ort, contract, controlSession, cameraSession);
//     every 2 ms:       const torques = await controller.act(sensors);
//     with each image:  await controller.see(depth);                     // policies that see
//
// onnxruntime-web does not tell a graph's metadata, so the contract comes as JSON beside the graph.
//
// Sensors: {orientation, angular_velocity, velocity, wheel_speeds, goal, command, position}, arrays; what is not there is
// missing.  One thing is added: a goal of 0, 0 tells the robot to stand, as on the page of `make drive`.

const WHEEL_SPEED_SCALE = 10; // rad/s per unit of observation
const CLIP = 2; // largest angular velocity, velocity and scaled wheel speed in observations along the world's axes
const POINT_RANGE = 2; // m: what is farther away is observed as far away as this
const LARGEST_COMMAND = 1e5; // in its unit: a larger number is a fault
const NEEDED = ["camera", "frame", "goal", "input", "longest_hold", "lost_after", "period", "tilt_limit_deg"];
const NEEDS_POSITION = ["station", "target", "next_target"];
const PLAUSIBLE = { // size, 0: as many as wheels, and the largest number that is no fault
  orientation: [4, 1.1], angular_velocity: [3, 100], velocity: [3, 20], wheel_speeds: [0, 1000], goal: [2, 1.1], position: [2, 1e5],
};

const clip = (x, most) => Math.min(Math.max(x, -most), most);

function numbers(value, size, most) { // a copy, or null where it is no such array of finite numbers
  if (!value || value.length !== size) return null;
  const found = Float64Array.from(value);
  return found.every((x) => Number.isFinite(x) && Math.abs(x) <= most) ? found : null;
}

export function rotationMatrix([w, x, y, z]) { // rows; from the base to the world
  return [
    [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
  ];
}

const toBase = (rotation, [x, y, z]) => [0, 1, 2].map((k) => rotation[0][k] * x + rotation[1][k] * y + rotation[2][k] * z);
const toWorld = (rotation, v) => rotation.map(([a, b, c]) => a * v[0] + b * v[1] + c * v[2]);

function facing(sensors, goal) { // the same, in a world turned about the vertical until the goal is this one
  const [x, y] = sensors.goal, [gx, gy] = goal, turn = Math.atan2(x * gy - y * gx, x * gx + y * gy);
  const c = Math.cos(turn), s = Math.sin(turn), a = Math.cos(turn / 2), b = Math.sin(turn / 2);
  const [w, i, j, k] = sensors.orientation, v = sensors.velocity;
  return {
    ...sensors, goal, orientation: [a * w - b * k, a * i - b * j, a * j + b * i, a * k + b * w],
    velocity: v && [c * v[0] - s * v[1], s * v[0] + c * v[1], v[2]],
  };
}

function levelled([w, x, y, z], [alongX, alongY]) { // of a base that is level where gravity has these parts
  const a = alongY / 2, b = -alongX / 2, found = [w - x * a - y * b, x + w * a - z * b, y + w * b + z * a, z + x * b - y * a];
  const n = Math.hypot(...found);
  return found.map((part) => part / n);
}

function wayTo(place, { position }, { rotation }) { // along the heading and to its left, at most POINT_RANGE long
  const offset = [place[0] - position[0], place[1] - position[1]], share = POINT_RANGE / Math.max(Math.hypot(...offset), POINT_RANGE);
  const [x, y] = offset.map((part) => share * part), n = Math.sqrt(rotation[0][0] ** 2 + rotation[1][0] ** 2 + 1e-12);
  const c = rotation[0][0] / n, s = rotation[1][0] / n;
  return [c * x + s * y, c * y - s * x];
}

function rotationVector([w, x, y, z]) {
  const sine = Math.hypot(x, y, z), angle = 2 * Math.atan2(sine, Math.abs(w));
  return [x, y, z].map((part) => part * (w < 0 ? -1 : 1) * (sine > 1e-12 ? angle / sine : 2));
}

function velocityCommand(sensors, { told, contract }) {
  const velocity = Array.from(told.command.slice(0, 3)), { max_speed: most, range } = contract.command;
  if (most !== undefined) { // it has never been asked for more
    const share = Math.min(most / Math.max(Math.hypot(velocity[0], velocity[1]), 1e-9), 1);
    return [velocity[0] * share, velocity[1] * share, Math.min(Math.max(velocity[2], range[2][0]), range[2][1])];
  }
  return velocity;
}

function pointOf({ command, index }, ahead = 0) {
  const k = Math.min(index + ahead, command.length / 2 - 1);
  return [command[2 * k], command[2 * k + 1]];
}

const READERS = { // name of a field of the observation -> its numbers, of sensors and controller
  gravity: (s, c) => c.rotation[2].map((x) => -x),
  gyro: (s) => s.angular_velocity,
  velocity: (s, c) => toBase(c.rotation, s.velocity),
  goal: (s, c) => toBase(c.rotation, [...s.goal, 0]).slice(0, 2),
  wheel_speeds: (s) => Array.from(s.wheel_speeds, (x) => x / WHEEL_SPEED_SCALE),
  last_action: (s, c) => c.last_action,
  orientation: (s) => rotationVector(s.orientation),
  clipped_gyro: (s) => Array.from(s.angular_velocity, (x) => clip(x, CLIP)),
  world_velocity: (s) => Array.from(s.velocity, (x) => clip(x, CLIP)),
  clipped_wheel_speeds: (s) => Array.from(s.wheel_speeds, (x) => clip(x / WHEEL_SPEED_SCALE, CLIP)),
  velocity_command: velocityCommand,
  station: (s, c) => wayTo(c.told.station, s, c),
  target: (s, c) => wayTo(pointOf(c.told), s, c),
  next_target: (s, c) => wayTo(pointOf(c.told, 1), s, c),
  yaw_rate: (s, c) => [c.rotation[2].reduce((sum, x, k) => sum + x * s.angular_velocity[k], 0)],
  image_age: (s, c) => [Math.min(c.age, c.contract.camera.longest_age)],
};

function pastOf(name) { // "gravity", 10 and false of "gravity@10", and true of "gravity-10"; null of a field of now
  const found = /^(.+)([@-])(\d+)$/.exec(name);
  return found && { origin: found[1], steps: Number(found[3]), change: found[2] === "-" };
}

export class Controller {
  constructor(ort, contract, control, camera = null) {
    Object.assign(this, { ort, contract, control, camera });
    for (const name of [...NEEDED, `${contract.action ?? "torque"}_per_action`]) {
      if (!(name in contract)) throw new Error(`the policy does not say its ${name}: export it again`);
    }
    if (contract.camera && !camera) throw new Error(`${contract.camera.graph} is missing: keep the policy's files together`);
    if ((contract.action ?? "torque") !== "torque") throw new Error(`this policy asks motors for ${contract.action}, not for torques`);
    this.kind = contract.command?.kind ?? "goal";
    this.fields = new Map(contract.input.fields.map(({ field, size }) => [field, size]));
    this.pastOf = new Map();
    for (const name of this.fields.keys()) {
      const past = name in READERS ? null : pastOf(name);
      if (past) this.pastOf.set(name, past);
      const read = past ? past.origin : name;
      if (!(read in READERS) && !String(read).startsWith("image_")) throw new Error(`the policy observes ${read}, which this controller cannot read`);
    }
    this.needs = Object.keys(PLAUSIBLE).filter((name) => !["goal", "position", ...(contract.velocity ? ["velocity"] : [])].includes(name));
    this.needs.push(this.kind === "goal" ? "goal" : "command");
    if (NEEDS_POSITION.some((name) => this.fields.has(name))) this.needs.push("position");
    this.wheels = contract.output?.size ?? 3;
    this.perAction = contract.torque_per_action;
    this.longestPast = Math.max(0, ...[...this.pastOf.values()].map(({ steps }) => steps));
    this.size = [...this.fields.values()].reduce((a, b) => a + b, 0);
    this.reset();
  }

  reset() { // forget the past, a fall too: before the robot drives again
    Object.assign(this, {
      status: "ok", last_action: new Float32Array(this.wheels), rotation: rotationMatrix([1, 0, 0, 0]), told: null, toldBefore: null,
      past: [], now: new Map(), lastGood: null, held: 0, memory: null, off: "", embeddings: null, age: 0, steady: null, balance: [0, 0],
    });
  }

  get stopped() { return Boolean(this.off); } // torques stay zero until reset(): after a fall, or without sensors for long

  async see(depth, age = 0) { // (cameras, height, width) m along the optical axis, one after the other
    const { shape, max_depth: most } = this.contract.camera;
    if (depth.length !== shape[0] * shape[1] * shape[2]) throw new Error(`images have ${depth.length} pixels, this policy takes ${shape.join(" x ")}`);
    const images = Float32Array.from(depth, (x) => (Number.isNaN(x) ? most : Math.min(Math.max(x, 0), most)));
    const { embedding } = await this.camera.run({ depth: new this.ort.Tensor("float32", images, [shape[0], 1, shape[1], shape[2]]) });
    Object.assign(this, { embeddings: Float32Array.from(embedding.data), age });
  }

  async act(sensors) { // N m for the next 2 ms; zeros when it is not safe to drive, see status
    let good = this.check(sensors), action = new Float32Array(this.wheels);
    if (good) {
      const observation = this.observe(good), { Tensor } = this.ort, feed = { observation: new Tensor("float32", observation, [1, this.size]) };
      const { memory } = this.contract;
      if (memory) {
        const shape = memory.shape.slice(1);
        feed.memory = new Tensor("float32", this.memory ?? new Float32Array(shape.reduce((a, b) => a * b, 1)), [1, ...shape]);
      }
      const found = await this.control.run(feed), next = memory && Float32Array.from(found.next_memory.data);
      action = Float32Array.from(found.action.data);
      this.toldBefore = this.told;
      if ([observation, action, next ?? []].every((x) => x.every(Number.isFinite))) {
        this.memory = next;
        this.past.push(this.now);
      } else {
        this.status = "policy failed";
        action = new Float32Array(this.wheels);
        good = null;
      }
    }
    if (!good && this.past.length) this.past.push(this.past[this.past.length - 1]); // time passes, and nothing better is known
    if (this.past.length > this.longestPast) this.past.shift();
    this.last_action = action;
    this.age += this.contract.period; // of the images, whether the robot drives or not
    return Float64Array.from(action, (x) => this.perAction * x);
  }

  observe(sensors) {
    const { contract } = this;
    if (contract.frame === "world" && this.kind === "goal") sensors = facing(sensors, contract.goal); // it knows one goal only
    this.rotation = rotationMatrix(sensors.orientation);
    if (contract.velocity) {
      const along = this.estimate(contract.velocity, sensors);
      if (contract.velocity.settle) {
        sensors = { ...sensors, orientation: levelled(sensors.orientation, this.balance) };
        this.rotation = rotationMatrix(sensors.orientation);
      }
      sensors = { ...sensors, velocity: toWorld(this.rotation, along) };
    }
    this.told = this.kind === "goal" ? null : this.follow(sensors);
    this.now = new Map();
    const observation = new Float32Array(this.size);
    let at = 0, images = 0;
    for (const [name, size] of this.fields) {
      const past = this.pastOf.get(name);
      let part;
      if (past) {
        const present = this.now.get(past.origin), k = this.past.length - Math.min(past.steps, this.past.length);
        const then = this.past.length ? this.past[k].get(past.origin) : present;
        part = past.change ? Array.from(present, (x, i) => Math.fround(x) - Math.fround(then[i])) : then;
      } else if (name in READERS) part = Array.from(READERS[name](sensors, this));
      else {
        part = this.embeddings.subarray(images, images + size);
        images += size;
      }
      if (part.length !== size) throw new Error(`${name} has ${part.length} numbers, the policy takes ${size}`);
      this.now.set(name, part);
      observation.set(part, at);
      at += size;
    }
    return observation;
  }

  estimate(how, sensors) { // m/s of the base along its own axes, by wheels and gyroscope, as the contract says; a step later
    const [x, y, z] = sensors.angular_velocity, leaning = [y, -x];
    const found = [0, 1].map((k) => sensors.wheel_speeds.reduce((sum, speed, i) => sum + how.turn[k][i] * speed, 0) + (how.arm + how.percussion) * leaning[k]);
    const down = [-this.rotation[2][0], -this.rotation[2][1]];
    if (!this.steady) {
      this.steady = found;
      this.balance = how.settle ? down : [0, 0];
    } else {
      const turning = [z * this.steady[1], -z * this.steady[0]];
      const expected = this.steady.map((v, k) => v + this.contract.period * (turning[k] + how.pull * (down[k] - this.balance[k])));
      const missing = found.map((v, k) => v - expected[k]);
      this.steady = expected.map((v, k) => v + how.share * missing[k]);
      this.balance = this.balance.map((v, k) => clip(v - how.settle * missing[k], how.most));
    }
    return [...this.steady.map((v, k) => v - how.percussion * leaning[k]), 0];
  }

  follow({ command, position }) { // what the robot is told now, and how far it has come with it
    const before = this.toldBefore, how = this.contract.command, here = this.needs.includes("position") ? position : null;
    if (!before || before.command.length !== command.length || before.command.some((x, k) => x !== command[k])) return { command, steps: 0, station: here, index: 0 };
    const steps = before.steps + 1;
    let { index, station } = before;
    if ("radius" in how && here) {
      const [x, y] = pointOf(before);
      if (Math.hypot(x - here[0], y - here[1]) <= how.radius) index = Math.min(index + 1, command.length / 2 - 1);
    }
    if ("settling" in how) {
      const stands = Math.hypot(command[0], command[1]) <= how.still && steps * this.contract.period > how.settling;
      station = stands ? station : here;
    }
    return { command, steps, station, index };
  }

  check(sensors) { // sensors to act on, or null; sets status
    const read = Object.fromEntries(this.needs.map((name) => [name, this.read(sensors ?? {}, name)])), { contract } = this;
    for (const name of ["orientation", "goal"]) {
      const n = read[name] && Math.hypot(...read[name]);
      if (read[name] && Math.abs(n - 1) > 1e-2 && !(name === "goal" && n === 0)) read[name] = null;
    }
    const values = Object.values(read), sound = values.every(Boolean);
    if (sound) {
      this.lastGood = read;
      this.held = 0;
    } else this.held++;
    // Until reset(): who picks the robot up does not want it to drive.  It may fall without being seen to, too.
    if (read.orientation && this.tiltsTooFar(read.orientation)) this.off = "fallen";
    else if (this.lastGood && this.held * contract.period > contract.lost_after) this.off ||= "sensors lost";
    if (this.off || !this.lastGood || this.held > contract.longest_hold) {
      const never = ["command", "position"].filter((name) => name in read && (sensors?.[name] ?? null) === null);
      const alone = !this.lastGood && values.filter((value) => !value).length === never.length;
      this.status = this.off || (never.length && alone ? `no ${never[0]}` : "sensors lost");
      return null;
    }
    if (contract.camera && !this.embeddings) {
      this.status = "no image";
      return null;
    }
    this.status = !sound ? "sensors held" : contract.camera && this.age > contract.camera.stale_after ? "stale image" : "ok";
    return this.lastGood;
  }

  read(sensors, name) { // a copy of a sensor's value, or null where it is none
    const value = sensors[name];
    if (name !== "command") return numbers(value, PLAUSIBLE[name][0] || this.wheels, PLAUSIBLE[name][1]);
    const how = this.contract.command, size = "points" in how ? Math.min(value?.length ?? 0, how.size) : how.size;
    return size >= 2 && (!("points" in how) || size % 2 === 0) ? numbers(value, size, LARGEST_COMMAND) : null;
  }

  tiltsTooFar([, x, y]) { return 1 - 2 * (x * x + y * y) < Math.cos(this.contract.tilt_limit_deg * Math.PI / 180); }
}

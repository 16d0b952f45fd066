// The robot of the page, in MuJoCo's WebAssembly build, balanced by an exported policy in onnxruntime-web.
//
// It says and hears what ballbot/driving/server.py does, so drive.js does not know the difference: {stick}, {press} come in;
// {kind: "scene"}, {kind: "status"}, the ground and poses, as numbers, go out.  Nothing here needs a window.

import { DepthCameras } from "./cameras.js";
import { Controller, rotationMatrix } from "./runtime.js";

const POSES = 1, GROUND = 2, IMAGES = 3; // what messages of numbers begin with
const FRAMES_PER_SECOND = 60, STATUS_PER_SECOND = 5, IMAGES_PER_SECOND = 10;
const MOST_OWED = 0.1; // s that the simulation may be behind and catch up; it is late, and says so, beyond
const DEAD = 0.05; // how far a stick may be off its middle and still say nothing
const SPEEDS = [1, 0.5, 0.25, 0.1]; // seconds of simulation in a second
const LYING = 1.5; // s that who fell lies there

export async function load(read) { // read: name of a file -> ArrayBuffer
  const text = async (name) => new TextDecoder().decode(await read(name)), world = JSON.parse(await text("world.json"));
  const { shape } = world.contract.camera ?? {};
  const [xml, grounds, own, control, look, engine, runtime] = await Promise.all([
    text("robot.xml"), read("grounds.bin"), shape && read("own_depth.bin"), read("policy.onnx"), shape && read("policy.camera.onnx"),
    read("mujoco.wasm"), read("ort.wasm"),
  ]);
  const mujoco = await (await import("./mujoco.js")).default({ wasmBinary: engine });
  const ort = await import("./ort.js");
  Object.assign(ort.env.wasm, { wasmBinary: runtime, numThreads: 1 });
  const options = { executionProviders: ["wasm"] }, graphs = [control, look].filter(Boolean), sessions = [];
  for (const graph of graphs) sessions.push(await ort.InferenceSession.create(new Uint8Array(graph), options));
  const controller = new Controller(ort, world.contract, ...sessions);
  const cameras = shape && new DepthCameras(world.cameras, new Float32Array(own));
  return new Robot(mujoco, world, mujoco.MjModel.from_xml_string(xml), new Float32Array(grounds), controller, cameras);
}

export class Robot {
  constructor(mujoco, world, model, grounds, controller, cameras) {
    Object.assign(this, { mujoco, world, model, controller, cameras });
    this.data = new mujoco.MjData(model);
    const count = world.poses.length;
    this.grounds = Array.from({ length: count }, (_, k) => grounds.subarray(k * grounds.length / count, (k + 1) * grounds.length / count));
    const address = (name, of) => { const joint = model.jnt(name), at = of(joint); joint.delete?.(); return Number(at); };
    const qpos = (name) => address(name, ({ id }) => model.jnt_qposadr[id]), dof = (name) => address(name, ({ id }) => model.jnt_dofadr[id]);
    this.at = {
      base: qpos("base_free"), spin: dof("base_free"), ball: qpos("ball_free"),
      wheels: Array.from({ length: controller.wheels }, (_, k) => dof(`wheel_${k}`)),
    };
    Object.assign(this, {
      terrain: 0, episode: 0, falls: 0, pushes: 0, pushed: [0, 0], said: "", speed: 1, rate: 1, goal: [0, 0], lying: 0, steps: 0,
      torques: new Float64Array(controller.wheels), images: null, tell: () => {}, paused: false,
    });
    this.begin(0);
  }

  begin(terrain) { // an episode, at rest where the ground begins
    const { model, data, mujoco, world } = this, heights = this.grounds[terrain];
    model.hfield_data.set(heights);
    mujoco.mj_resetData(model, data);
    data.qpos.set(world.poses[terrain]);
    this.cameras?.stand(heights.map((x) => x * world.top), world.vertices, world.length);
    this.controller.reset();
    this.torques.fill(0);
    Object.assign(this, { terrain, lying: 0, steps: 0, episode: this.episode + 1 });
  }

  again(said) {
    this.begin(this.terrain);
    this.said = said;
  }

  sensors() {
    const { qpos, qvel } = this.data, { base, spin, wheels } = this.at;
    return {
      orientation: qpos.slice(base + 3, base + 7), velocity: qvel.slice(spin, spin + 3), angular_velocity: qvel.slice(spin + 3, spin + 6),
      wheel_speeds: wheels.map((k) => qvel[k]), goal: this.goal, position: qpos.slice(base, base + 2),
    };
  }

  async step() { // of 2 ms
    const { world, data, controller } = this, sensors = this.sensors();
    if (this.cameras && this.steps % world.image_steps === 0) {
      const { base, ball } = this.at, { qpos } = data;
      this.images = this.cameras.look(qpos.slice(base, base + 3), rotationMatrix(sensors.orientation), qpos.slice(ball, ball + 3));
      await controller.see(this.images);
    }
    const torques = await controller.act(sensors);
    this.advance(this.lying ? torques.fill(0) : torques);
    this.judge();
  }

  advance(torques) {
    this.torques = torques;
    this.data.ctrl.set(torques);
    this.mujoco.mj_step(this.model, this.data);
    this.steps++;
  }

  judge() { // falls, and ends of the ground
    const { qpos } = this.data, { base } = this.at, { reach } = this.world;
    const off = Math.abs(qpos[base]) > reach || Math.abs(qpos[base + 1]) > reach, finite = qpos.every(Number.isFinite);
    if (!finite) this.again("begins again");
    else if (this.lying) {
      this.lying--;
      if (!this.lying || off) this.again("stands again");
    } else if (this.tilt() > this.world.tilt_limit) {
      this.lying = Math.round(LYING / this.world.dt);
      this.falls++;
      this.said = "fell";
    } else if (off) this.again("left the ground: back to where it begins");
  }

  tilt() { // degrees
    const { qpos } = this.data, { base } = this.at, x = qpos[base + 4], y = qpos[base + 5];
    return Math.acos(Math.min(Math.max(1 - 2 * (x * x + y * y), -1), 1)) * 180 / Math.PI;
  }

  // -- What it is told --------------------------------------------------------------------------------------------------

  hear({ stick, press, along }) {
    if (stick) {
      const n = Math.hypot(...stick);
      this.goal = n > DEAD ? stick.map((x) => x / n) : [0, 0];
    }
    if (press === "push") this.push(along);
    else if (press === "reset") this.again("from the start");
    else if (press === "next") {
      this.begin((this.terrain + 1) % this.grounds.length);
      this.said = this.groundInWords();
    } else if (press === "slow") {
      this.speed = SPEEDS[(SPEEDS.indexOf(this.speed) + 1) % SPEEDS.length];
      this.said = this.speed === 1 ? "real time" : `slow motion, ${this.speed} x`;
    }
  }

  push(along) { // the body, as if somebody bumped into it
    const n = Math.max(Math.hypot(...along), 1e-9), { spin } = this.at, { qvel } = this.data;
    this.pushed = along.map((x) => x / n);
    this.pushed.forEach((x, k) => { qvel[spin + k] += this.world.push * x; });
    this.pushes++;
    this.said = "pushed";
  }

  groundInWords() { return `${this.world.terrain}, ${this.terrain + 1} of ${this.grounds.length}`; }

  // -- In real time -----------------------------------------------------------------------------------------------------

  async run(tell) { // tell: hands on a message, a text or numbers
    this.tell = tell;
    const { world } = this, { dt } = world, tick = 1000 / FRAMES_PER_SECOND, began = performance.now();
    let last = began, due = began, told = -Infinity, seen = -Infinity, owed = 0, done = 0, asked = 0, ground = -1;
    tell(JSON.stringify({
      kind: "scene", solids: world.solids, name: world.name, command: this.controller.kind, fastest: Infinity, turns: false,
      torque: world.torque, tilt_limit: world.tilt_limit,
    }));
    for (;;) {
      const now = performance.now(), passed = (now - last) / 1000;
      last = now;
      if (!this.paused) {
        asked += passed * this.speed;
        owed = Math.min(owed + passed * this.speed, MOST_OWED);
        while (owed >= dt) {
          await this.step();
          owed -= dt;
          done += dt;
          if (performance.now() - now > tick) break;
        }
        if (ground !== this.terrain) this.tellGround(ground = this.terrain);
        this.tellPoses((performance.now() - began) / 1000);
        if (now - seen > 1000 / IMAGES_PER_SECOND && this.images) {
          seen = now;
          this.tellImages();
        }
        if (now - told > 1000 / STATUS_PER_SECOND) {
          told = now;
          if (asked > 0.3) [this.rate, done, asked] = [done / asked, 0, 0]; // over some time: from one frame to the next it varies
          this.tellStatus();
        }
      }
      due = Math.max(due + tick, performance.now() - tick);
      await new Promise((go) => setTimeout(go, Math.max(due - performance.now(), 0)));
    }
  }

  tellPoses(at) {
    const { mujoco, model, data, world } = this, { spin } = this.at;
    mujoco.mj_kinematics(model, data);
    const { qvel, xpos, xquat } = data, parts = world.bodies.flatMap((k) => [...xpos.subarray(3 * k, 3 * k + 3), ...xquat.subarray(4 * k, 4 * k + 4)]);
    this.tell(Float32Array.from([
      POSES, at, ...this.goal, qvel[spin], qvel[spin + 1], 0, this.tilt(), NaN, NaN, this.torques.length, ...this.torques, ...parts,
    ]).buffer);
  }

  tellGround(terrain) {
    const { vertices, length, top } = this.world, heights = this.grounds[terrain], message = new ArrayBuffer(16 + 2 * heights.length);
    new Float32Array(message, 0, 4).set([GROUND, vertices, length, top]);
    new Uint16Array(message, 16).set(heights.map((x) => Math.round(65535 * x)));
    this.tell(message);
  }

  tellImages() {
    const { shape, max_depth: most } = this.world.cameras, message = new ArrayBuffer(16 + this.images.length);
    new Float32Array(message, 0, 4).set([IMAGES, ...shape]);
    new Uint8Array(message, 16).set(this.images.map((x) => Math.round(255 * x / most)));
    this.tell(message);
  }

  tellStatus() {
    this.tell(JSON.stringify({
      kind: "status", said: this.said, ground: this.groundInWords(), episode: this.episode, falls: this.falls, lies: this.lying > 0,
      speed: this.speed, rate: this.rate, viewers: 1, seconds: this.steps * this.world.dt, pushes: this.pushes, pushed: this.pushed, place: 0,
    }));
  }
}

// The page's robot without a page, for test_demo.py: node demo_driver.mjs FOLDER JOBS, where JOBS is a file of JSON:
//   terrain, start, torques   a trajectory from a state, whose torques are given -> qpos of every step
//   views                     poses of the robot -> depth images
//   controllers               contract, graphs and what happens step by step -> status and torques
//   stands                    steps that the robot stands by itself -> falls, largest tilt, ms of CPU of 50 steps each

import fs from "node:fs";
import zlib from "node:zlib";
import { pathToFileURL } from "node:url";

const [folder, file] = process.argv.slice(2), jobs = JSON.parse(fs.readFileSync(file));
const from = (name) => import(pathToFileURL(`${folder}/${name}`));
const bytes = (buffer) => buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.length);
const { load } = await from("robot.js"), { Controller } = await from("runtime.js"), ort = await from("ort.js");
const robot = await load(async (name) => bytes(zlib.gunzipSync(fs.readFileSync(`${folder}/${name}.gz`)))), answers = {};

robot.begin(jobs.terrain);
robot.data.qpos.set(jobs.start.qpos);
robot.data.qvel.set(jobs.start.qvel);
answers.qpos = jobs.torques.map((torques) => {
  robot.advance(torques);
  return Array.from(robot.data.qpos);
});

answers.images = jobs.views.map(({ position, rotation, ball }) => Array.from(robot.cameras.look(position, rotation, ball)));

answers.controllers = [];
for (const { contract, graphs, happens } of jobs.controllers) {
  const sessions = [];
  for (const path of graphs) sessions.push(await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(path)), { executionProviders: ["wasm"] }));
  const controller = new Controller(ort, contract, ...sessions), found = [];
  for (const { reset, depth, age, sensors } of happens) {
    if (reset) controller.reset();
    if (depth) await controller.see(depth, age);
    const torques = await controller.act(sensors);
    found.push([controller.status, ...torques]);
  }
  answers.controllers.push(found);
}

robot.begin(0);
robot.goal = [0, 0];
let worst = 0;
const times = []; // ms of CPU of 50 steps
for (let step = 0; step < jobs.stands; step += 50) {
  const began = process.cpuUsage();
  for (let k = 0; k < 50; k++) {
    await robot.step();
    worst = Math.max(worst, robot.tilt());
  }
  const { user, system } = process.cpuUsage(began);
  times.push((user + system) / 1000);
}
answers.stands = { falls: robot.falls, tilt: worst, times };
process.stdout.write(JSON.stringify(answers), () => process.exit(0));

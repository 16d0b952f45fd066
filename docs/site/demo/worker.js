// The robot in a thread of its own, so that drawing does not wait for it.  Files come from this folder, packed by gzip.

import { load } from "./robot.js";

let total = 1, come = 0;

async function fetched(name) { // one of the packed files
  const answer = await fetch(`${name}.gz`);
  if (!answer.ok) throw new Error(`${name}.gz: ${answer.status} ${answer.statusText}; build the page again (make demo) and copy all of its folder`);
  const parts = [];
  for (const reader = answer.body.getReader(); ;) {
    const { value, done } = await reader.read();
    if (done) break;
    parts.push(value);
    come += value.length;
    postMessage({ loaded: Math.min(come / total, 1) });
  }
  const blob = new Blob(parts), head = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  if (head[0] !== 0x1f || head[1] !== 0x8b) return blob.arrayBuffer(); // the server, or the browser, has unpacked it
  return new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function start(bytes) {
  if (typeof WebAssembly !== "object" || typeof DecompressionStream !== "function") throw new Error("This browser is too old: it needs WebAssembly and DecompressionStream (any of 2023 or later has both).");
  total = bytes;
  const robot = await load(fetched);
  onmessage = async ({ data }) => {
    if (data.measure) postMessage({ measured: await measured(robot, data.measure) });
    else if ("paused" in data) robot.paused = data.paused;
    else robot.hear(data);
  };
  postMessage({ ready: true });
  await robot.run((message) => postMessage(message, typeof message === "string" ? [] : [message]));
}

async function measured(robot, windows) { // ms of each of so many windows of 50 steps, as fast as they go
  const found = [];
  robot.paused = true;
  for (let k = 0; k < windows; k++) {
    const start = performance.now();
    for (let step = 0; step < 50; step++) await robot.step();
    found.push(performance.now() - start);
  }
  robot.paused = false;
  return found;
}

const failed = (error) => postMessage({ failed: String(error?.message ?? error) });
onmessage = ({ data }) => start(data.bytes).catch(failed);

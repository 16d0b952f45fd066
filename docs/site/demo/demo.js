// Lets drive.js drive a robot that lives in this page: what looks like its WebSocket is a worker.
"use strict";

const IMAGES = 3; // what a message of the robot's cameras begins with

class Robot { // a WebSocket, as far as drive.js knows
  constructor() {
    this.readyState = 0;
    const gone = "worker.js cannot be loaded: build the page again (make demo), and serve it by HTTP (python -m http.server).";
    try {
      this.worker = new Worker("worker.js", { type: "module" });
    } catch { // as of a page that was opened as a file
      setTimeout(() => this.fail(gone));
      return;
    }
    this.worker.onerror = (event) => this.fail(event.message || gone);
    this.worker.onmessage = ({ data }) => this.hear(data);
    this.worker.postMessage({ bytes: Number(document.documentElement.dataset.bytes) });
  }

  send(text) { this.worker.postMessage(JSON.parse(text)); }

  fail(why) {
    this.readyState = 3;
    loading(null);
    fault("The robot cannot be simulated here", why);
  }

  hear(data) {
    if (typeof data === "string") this.onmessage({ data });
    else if (data.failed) this.fail(data.failed);
    else if ("loaded" in data) loading(data.loaded);
    else if (data.measured) this.measured?.(data.measured);
    else if (data.ready) {
      this.readyState = 1;
      loading(null);
      this.onopen();
    } else if (data instanceof ArrayBuffer && new Float32Array(data, 0, 1)[0] === IMAGES) seen(data);
    else this.onmessage({ data });
  }

  measure(windows) { // promises ms of each window of 50 steps
    return new Promise((done) => { this.measured = done; this.worker.postMessage({ measure: windows }); });
  }
}

function loading(share) {
  const card = document.getElementById("loading");
  card.hidden = share === null;
  card.querySelector("i").style.width = `${100 * (share ?? 1)}%`;
  card.querySelector("span").textContent = share === 1 ? "starting MuJoCo and onnxruntime ..." : "loading the robot, its physics and its network ...";
}

function seen(data) { // images of the depth cameras: near is dark
  const [, cameras, height, width] = new Float32Array(data, 0, 4), depth = new Uint8Array(data, 16);
  const canvas = document.getElementById("eyes"), g = canvas.getContext("2d");
  if (canvas.width !== cameras * (width + 4) - 4) Object.assign(canvas, { width: cameras * (width + 4) - 4, height });
  for (let k = 0; k < cameras; k++) {
    const image = g.createImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      const x = Math.min(depth[k * width * height + i] / 110, 1); // the ground is near
      image.data.set([40 + 205 * x ** 0.8, 55 + 180 * x, 95 + 120 * x ** 1.3, 255].map(Math.round), 4 * i);
    }
    g.putImageData(image, k * (width + 4), 0);
  }
}

const [about, eyes] = document.getElementById("demo-parts").content.children;
document.getElementById("who").append(about);
document.getElementById("side").append(eyes);
document.addEventListener("visibilitychange", () => window.demo.robot?.worker?.postMessage({ paused: document.hidden }));
if (location.hash === "#show") setInterval(() => { // drives by itself, in curves
  held.add("KeyW");
  camera.azimuth += 0.0025;
}, 20);
window.demo = { robot: null, measure: (windows) => window.demo.robot.measure(windows) };
window.makeRobot = () => (window.demo.robot = new Robot());

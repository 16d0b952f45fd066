// The page on which a robot is driven: draws it by WebGL 2, tells what is pressed, and shows what it is told.
// Everything comes from the server that serves this file (ballbot/driving/server.py), or, in a page that has a robot of
// its own (docs/site/demo), from what window.makeRobot() gives instead of a WebSocket; z is up, units are SI.
"use strict";

const $ = (id) => document.getElementById(id);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const TAU = 2 * Math.PI;

// -- Vectors, quaternions (w first) and matrices (by columns) ----------------------------------------------------------

const sub = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const unit = (a) => { const n = Math.hypot(...a) || 1; return a.map((x) => x / n); };

function turned(q, v) {
  const [w, x, y, z] = q;
  const t = cross([x, y, z], v).map((part) => 2 * part);
  const u = cross([x, y, z], t);
  return [v[0] + w * t[0] + u[0], v[1] + w * t[1] + u[1], v[2] + w * t[2] + u[2]];
}

function pose([px, py, pz, w, x, y, z]) {
  return new Float32Array([
    1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y), 0,
    2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x), 0,
    2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y), 0,
    px, py, pz, 1,
  ]);
}

function times(a, b) {
  const out = new Float32Array(16);
  for (let c = 0; c < 4; c++) for (let r = 0; r < 4; r++) {
    out[4 * c + r] = a[r] * b[4 * c] + a[4 + r] * b[4 * c + 1] + a[8 + r] * b[4 * c + 2] + a[12 + r] * b[4 * c + 3];
  }
  return out;
}

function looking(eye, at, up = [0, 0, 1]) {
  const back = unit(sub(eye, at)), right = unit(cross(up, back)), top = cross(back, right);
  return new Float32Array([
    right[0], top[0], back[0], 0, right[1], top[1], back[1], 0, right[2], top[2], back[2], 0,
    -dot(right, eye), -dot(top, eye), -dot(back, eye), 1,
  ]);
}

function perspective(fovy, aspect, near, far) {
  const f = 1 / Math.tan(fovy / 2);
  return new Float32Array([f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, 2 * far * near / (near - far), 0]);
}

function orthographic(half, near, far) {
  return new Float32Array([1 / half, 0, 0, 0, 0, 1 / half, 0, 0, 0, 0, 2 / (near - far), 0, 0, 0, (far + near) / (near - far), 1]);
}

// -- Solids as triangles: of each vertex a place and a normal in the solid's frame -------------------------------------

function sheet(columns, rows, at) { // at(u, v) -> [place, normal]
  const vertices = [], faces = [];
  for (let j = 0; j <= rows; j++) for (let i = 0; i <= columns; i++) vertices.push(at(i / columns, j / rows));
  for (let j = 0; j < rows; j++) for (let i = 0; i < columns; i++) {
    const a = j * (columns + 1) + i, b = a + columns + 1;
    faces.push(a, a + 1, b, b, a + 1, b + 1);
  }
  return { vertices, faces };
}

function together(...parts) {
  const vertices = [], faces = [];
  for (const part of parts) {
    for (const face of part.faces) faces.push(face + vertices.length);
    vertices.push(...part.vertices);
  }
  return { vertices, faces };
}

const around = (u) => [Math.cos(TAU * u), Math.sin(TAU * u)];

const SHAPES = {
  sphere: ({ size: [r] }) => SHAPES.ellipsoid({ size: [r, r, r] }),
  ellipsoid: ({ size: [a, b, c] }) => sheet(40, 24, (u, v) => {
    const [x, y] = around(u), s = Math.sin(Math.PI * v), z = -Math.cos(Math.PI * v);
    return [[a * s * x, b * s * y, c * z], unit([s * x / a, s * y / b, z / c])];
  }),
  cylinder: ({ size: [r, h] }) => together(
    sheet(40, 1, (u, v) => { const [x, y] = around(u); return [[r * x, r * y, h * (2 * v - 1)], [x, y, 0]]; }),
    ...[-1, 1].map((side) => sheet(40, 1, (u, v) => { const [x, y] = around(u * side); return [[r * v * x, r * v * y, h * side], [0, 0, side]]; })),
  ),
  capsule: ({ size: [r, h] }) => sheet(28, 17, (u, v) => {
    const [x, y] = around(u), angle = Math.PI * (v * 17 > 8.5 ? (v * 17 - 1) / 16 : v * 17 / 16);
    const s = Math.sin(angle), z = -Math.cos(angle);
    return [[r * s * x, r * s * y, r * z + (v * 17 > 8.5 ? h : -h)], [s * x, s * y, z]];
  }),
  box: ({ size }) => together(...[0, 1, 2].flatMap((axis) => [-1, 1].map((side) => sheet(1, 1, (u, v) => {
    const place = [0, 0, 0], normal = [0, 0, 0], i = (axis + 1) % 3, j = (axis + 2) % 3;
    normal[axis] = side;
    place[axis] = side * size[axis];
    place[i] = size[i] * (2 * u - 1) * side;
    place[j] = size[j] * (2 * v - 1);
    return [place, normal];
  })))),
  mesh: ({ vertices, faces }) => { // every face flat
    const found = { vertices: [], faces: [] };
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [0, 1, 2].map((k) => vertices.slice(3 * faces[f + k], 3 * faces[f + k] + 3));
      const normal = unit(cross(sub(b, a), sub(c, a)));
      for (const place of [a, b, c]) { found.faces.push(found.vertices.length); found.vertices.push([place, normal]); }
    }
    return found;
  },
};

// -- Shaders -----------------------------------------------------------------------------------------------------------

const LIGHT = `
  uniform vec3 eye, sun;
  uniform mat4 toLight;
  uniform highp sampler2DShadow shadows;
  const vec3 HORIZON = vec3(.80, .88, .95);
  vec3 linear(vec3 c) { return pow(c, vec3(2.2)); }
  float lit(vec3 p, vec3 n) {
    vec4 q = toLight * vec4(p + n * .004, 1.);
    vec3 at = q.xyz / q.w * .5 + .5;
    if (any(lessThan(at, vec3(0.))) || any(greaterThan(at, vec3(1.)))) return 1.;
    float sum = 0., texel = 1. / float(textureSize(shadows, 0).x);
    for (int i = -1; i <= 1; i++) for (int j = -1; j <= 1; j++)
      sum += texture(shadows, vec3(at.xy + 1.2 * texel * vec2(i, j), at.z - .0012));
    vec2 edge = smoothstep(.5, .44, abs(at.xy - .5));
    return mix(1., sum / 9., edge.x * edge.y);
  }
  vec3 shaded(vec3 base, vec3 p, vec3 n, float gloss, float open) {
    vec3 view = normalize(eye - p), half_ = normalize(view + sun);
    float sunny = max(dot(n, sun), 0.);
    if (sunny > 0.) sunny *= lit(p, n);
    vec3 ambient = mix(vec3(.30, .29, .28), vec3(.52, .58, .66), n.z * .5 + .5) * open;
    vec3 colour = base * (ambient + sunny * vec3(.98, .93, .84));
    colour += gloss * sunny * pow(max(dot(n, half_), 0.), 48.) * vec3(.9);
    colour += gloss * .18 * pow(1. - max(dot(n, view), 0.), 4.) * vec3(.7, .8, .9) * open;
    float far = smoothstep(5., 22., length(eye - p));
    return pow(mix(colour, linear(HORIZON), far), vec3(1. / 2.2));
  }
`;

const SOLID = {
  vertex: `#version 300 es
    layout(location = 0) in vec3 place; layout(location = 1) in vec3 normal; layout(location = 2) in vec3 one;
    layout(location = 3) in vec3 other; layout(location = 4) in vec4 pattern;
    uniform mat4 model, view;
    out vec3 p, n, a, b; out vec4 c;
    void main() {
      p = (model * vec4(place, 1.)).xyz; n = mat3(model) * normal; a = one; b = other; c = pattern;
      gl_Position = view * vec4(p, 1.);
    }`,
  fragment: `#version 300 es
    precision highp float;
    in vec3 p, n, a, b; in vec4 c; out vec4 colour;
    ${LIGHT}
    void main() {
      vec3 d = abs(c.xyz); // a cube's checker, as MuJoCo draws it
      vec2 uv = d.x > d.y && d.x > d.z ? c.yz / d.x : d.y > d.z ? c.zx / d.y : c.xy / max(d.z, 1e-6);
      vec2 waves = sin(3.14159265 * c.w * (uv + 1.));
      float s = waves.x * waves.y, w = clamp(.9 * c.w * length(fwidth(c.xyz)) / max(max(d.x, d.y), max(d.z, 1e-6)), 1e-4, .7);
      colour = vec4(shaded(linear(mix(a, b, smoothstep(-w, w, s))), p, normalize(n), .35, 1.), 1.);
    }`,
};

const GROUND = {
  vertex: `#version 300 es
    layout(location = 0) in vec3 place; layout(location = 1) in vec3 normal;
    uniform mat4 view; uniform vec3 shift;
    out vec3 p, n;
    void main() { p = place + shift; n = normal; gl_Position = view * vec4(p, 1.); }`,
  fragment: `#version 300 es
    precision highp float;
    in vec3 p, n; out vec4 colour;
    ${LIGHT}
    uniform vec3 ball; // its centre
    uniform vec3 levels; // least and greatest height, m between contours
    float lines(float x, float every, float pixels) {
      float w = fwidth(x), near = abs(fract(x / every - .5) - .5) * every;
      return (1. - smoothstep(.5 * pixels * w, (.5 * pixels + 1.) * w, near)) * clamp(1.5 - 3. * w / every, 0., 1.);
    }
    void main() {
      vec3 N = normalize(n);
      float rel = levels.y > levels.x ? clamp((p.z - levels.x) / (levels.y - levels.x), 0., 1.) : .62;
      vec3 base = mix(mix(vec3(.50, .56, .58), vec3(.70, .71, .66), smoothstep(0., .55, rel)), vec3(.88, .85, .77), smoothstep(.5, 1., rel));
      vec2 square = floor(p.xy * 2.);
      base *= 1. - .035 * mod(square.x + square.y, 2.);
      float fine = max(lines(p.x, .1, .4), lines(p.y, .1, .4)), coarse = max(lines(p.x, .5, 1.), lines(p.y, .5, 1.));
      float fades = exp(-.22 * length(eye - p));
      base *= 1. - (.10 * fine + .26 * coarse) * fades;
      if (levels.z > 0. && N.z > .3) base *= 1. - .17 * fades * lines(p.z - .47 * levels.z, levels.z, .8);
      vec3 off = p - ball;
      float open = 1. - .55 * exp(-dot(off.xy, off.xy) / .0042) * smoothstep(.2, .05, abs(off.z + .085));
      colour = vec4(shaded(linear(base), p, N, .0, open), 1.);
    }`,
};

const SKY = {
  vertex: `#version 300 es
    out vec2 at;
    void main() { at = vec2(gl_VertexID == 1 ? 3. : -1., gl_VertexID == 2 ? 3. : -1.); gl_Position = vec4(at, 1., 1.); }`,
  fragment: `#version 300 es
    precision highp float;
    in vec2 at; out vec4 colour; uniform vec3 right, up, ahead; uniform vec3 sun;
    void main() {
      vec3 d = normalize(ahead + at.x * right + at.y * up);
      vec3 sky = mix(vec3(.80, .88, .95), vec3(.40, .60, .83), pow(clamp(d.z, 0., 1.), .55));
      sky += vec3(.25, .2, .1) * pow(max(dot(d, sun), 0.), 60.);
      colour = vec4(mix(sky, vec3(.80, .88, .95), smoothstep(.02, -.05, d.z)), 1.);
    }`,
};

const DEPTH = {
  vertex: `#version 300 es
    layout(location = 0) in vec3 place; uniform mat4 model, view;
    void main() { gl_Position = view * model * vec4(place, 1.); }`,
  fragment: `#version 300 es
    precision highp float; void main() {}`,
};

const FLAT = {
  vertex: `#version 300 es
    layout(location = 0) in vec3 place; layout(location = 1) in vec4 tint; uniform mat4 view; out vec4 t;
    void main() { t = tint; gl_Position = view * vec4(place, 1.); gl_Position.z -= .0006 * gl_Position.w; }`,
  fragment: `#version 300 es
    precision highp float; in vec4 t; out vec4 colour; void main() { colour = t; }`,
};

// -- The ground --------------------------------------------------------------------------------------------------------

class Field {
  constructor(size, length, top, raw) {
    Object.assign(this, { size, length, top });
    this.heights = new Float32Array(size * size);
    for (let i = 0; i < raw.length; i++) this.heights[i] = raw[i] / 65535 * top;
    this.cell = size ? length / (size - 1) : 1;
  }

  at(x, y) { // m, as MuJoCo has it: two triangles in a cell
    const n = this.size;
    if (!n) return 0;
    const u = clamp((x + this.length / 2) / this.cell, 0, n - 1), v = clamp((y + this.length / 2) / this.cell, 0, n - 1);
    const i = Math.min(Math.floor(u), n - 2), j = Math.min(Math.floor(v), n - 2), s = u - i, t = v - j, h = this.heights, k = j * n + i;
    return s >= t ? h[k] + s * (h[k + 1] - h[k]) + t * (h[k + n + 1] - h[k + 1]) : h[k] + t * (h[k + n] - h[k]) + s * (h[k + n + 1] - h[k + n]);
  }

  tiles(most = 48) { // pieces of so many cells a side, and the walls around: vertices of place and normal
    const n = this.size, { cell, heights: h } = this, half = this.length / 2, found = [];
    const height = (i, j) => h[clamp(j, 0, n - 1) * n + clamp(i, 0, n - 1)];
    for (let j0 = 0; j0 < n - 1; j0 += most) for (let i0 = 0; i0 < n - 1; i0 += most) {
      const w = Math.min(most, n - 1 - i0), d = Math.min(most, n - 1 - j0), data = new Float32Array(6 * (w + 1) * (d + 1));
      let at = 0;
      for (let j = j0; j <= j0 + d; j++) for (let i = i0; i <= i0 + w; i++) {
        const nx = height(i - 1, j) - height(i + 1, j), ny = height(i, j - 1) - height(i, j + 1), nz = 2 * cell, m = Math.hypot(nx, ny, nz);
        data.set([i * cell - half, j * cell - half, height(i, j), nx / m, ny / m, nz / m], at);
        at += 6;
      }
      const faces = new Uint16Array(6 * w * d);
      for (let j = 0, f = 0; j < d; j++) for (let i = 0; i < w; i++, f += 6) {
        const a = j * (w + 1) + i, b = a + w + 1;
        faces.set([a, a + 1, b + 1, a, b + 1, b], f); // along the diagonal that MuJoCo splits cells by
      }
      found.push({ data, faces, middle: [(i0 + w / 2) * cell - half, (j0 + d / 2) * cell - half], reach: cell * most * 0.71 });
    }
    for (const [side, fixed] of [[0, 0], [1, n - 1], [2, 0], [3, n - 1]]) {
      const data = new Float32Array(12 * n), faces = new Uint16Array(6 * (n - 1)), normal = [[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0]][side];
      for (let k = 0; k < n; k++) {
        const [i, j] = side < 2 ? [fixed, k] : [k, fixed];
        data.set([i * cell - half, j * cell - half, height(i, j), ...normal, i * cell - half, j * cell - half, -0.1, ...normal], 12 * k);
        if (k < n - 1) faces.set([2 * k, 2 * k + 1, 2 * k + 2, 2 * k + 2, 2 * k + 1, 2 * k + 3], 6 * k);
      }
      found.push({ data, faces, middle: [0, 0], reach: this.length });
    }
    return found;
  }
}

// -- Drawing -----------------------------------------------------------------------------------------------------------

class Painter {
  constructor(canvas) {
    const gl = canvas.getContext("webgl2", { antialias: true, alpha: false, powerPreference: "high-performance" });
    if (!gl) throw new Error("This browser has no WebGL 2, so the robot is not drawn. Keys and numbers work.");
    Object.assign(this, { canvas, gl, scale: 1, bodies: [], tiles: [], plane: null, field: new Field(0, 0, 0, []), shadowSize: 2048, plain: false });
    this.programs = Object.fromEntries(Object.entries({ solid: SOLID, ground: GROUND, sky: SKY, depth: DEPTH, flat: FLAT }).map(([name, code]) => [name, this.program(code)]));
    this.sun = unit([-0.5, -0.62, 1.05]);
    this.shadowMap();
    this.none = gl.createVertexArray();
    this.strip = { array: gl.createVertexArray(), buffer: gl.createBuffer() };
    gl.bindVertexArray(this.strip.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.strip.buffer);
    this.attributes([3, 4]);
    const far = 40, corners = [[-far, -far], [far, -far], [far, far], [-far, far]];
    this.plane = this.mesh(new Float32Array(corners.flatMap(([x, y]) => [x, y, 0, 0, 0, 1])), new Uint16Array([0, 1, 2, 0, 2, 3]), [3, 3]);
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(0.765, 0.827, 0.878, 1); // the page's, until there is something to draw
    gl.clear(gl.COLOR_BUFFER_BIT);
  }

  program({ vertex, fragment }) {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, code] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, code.trim());
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(program));
    const count = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS), at = {};
    for (let i = 0; i < count; i++) { const { name } = gl.getActiveUniform(program, i); at[name] = gl.getUniformLocation(program, name); }
    return { program, at };
  }

  attributes(sizes) {
    const gl = this.gl, stride = 4 * sizes.reduce((a, b) => a + b);
    let offset = 0;
    sizes.forEach((size, i) => {
      gl.enableVertexAttribArray(i);
      gl.vertexAttribPointer(i, size, gl.FLOAT, false, stride, offset);
      offset += 4 * size;
    });
  }

  mesh(data, faces, sizes) {
    const gl = this.gl, array = gl.createVertexArray(), buffers = [gl.createBuffer(), gl.createBuffer()];
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[0]);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffers[1]);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    this.attributes(sizes);
    return { array, buffers, count: faces.length, type: faces instanceof Uint16Array ? gl.UNSIGNED_SHORT : gl.UNSIGNED_INT };
  }

  forget(meshes) {
    for (const { array, buffers } of meshes) {
      this.gl.deleteVertexArray(array);
      buffers.forEach((buffer) => this.gl.deleteBuffer(buffer));
    }
  }

  shadowMap() {
    const gl = this.gl, texture = gl.createTexture(), n = this.shadowSize;
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.DEPTH_COMPONENT24, n, n);
    for (const [name, value] of [["MIN_FILTER", gl.LINEAR], ["MAG_FILTER", gl.LINEAR], ["WRAP_S", gl.CLAMP_TO_EDGE], ["WRAP_T", gl.CLAMP_TO_EDGE], ["COMPARE_MODE", gl.COMPARE_REF_TO_TEXTURE], ["COMPARE_FUNC", gl.LEQUAL]]) {
      gl.texParameteri(gl.TEXTURE_2D, gl[`TEXTURE_${name}`], value);
    }
    this.shadows = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.shadows);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, texture, 0);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  }

  setSolids(solids) { // the solids of a body become one mesh
    this.forget(this.bodies);
    const count = 1 + Math.max(-1, ...solids.map((solid) => solid.body));
    this.bodies = Array.from({ length: count }, (_, body) => {
      const data = [], faces = [];
      for (const solid of solids.filter((one) => one.body === body)) {
        const first = data.length / 16, made = SHAPES[solid.shape](solid), plain = `${solid.colours[0]}` === `${solid.colours[1]}`;
        for (const [place, normal] of made.vertices) {
          const at = turned(solid.quat, place);
          data.push(...at.map((x, k) => x + solid.pos[k]), ...turned(solid.quat, normal), ...solid.colours[0], ...solid.colours[1], ...place, plain ? 0 : solid.repeat);
        }
        for (const face of made.faces) faces.push(face + first);
      }
      return this.mesh(new Float32Array(data), new Uint32Array(faces), [3, 3, 3, 3, 4]);
    });
  }

  setField(field) {
    this.forget(this.tiles);
    this.field = field;
    this.tiles = field.size ? field.tiles().map((tile) => ({ ...this.mesh(tile.data, tile.faces, [3, 3]), middle: tile.middle, reach: tile.reach })) : [];
  }

  resize() {
    const { canvas } = this, ratio = Math.min(devicePixelRatio || 1, 2) * this.scale;
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  }

  draw(parts, ball, camera, marks) {
    const { gl, programs, field } = this;
    if (gl.isContextLost()) return;
    this.resize();
    const models = parts.map(pose), centre = camera.at;
    // from the sun
    const light = times(orthographic(1.6, 0.1, 8), looking(centre.map((x, k) => x + 4 * this.sun[k]), centre));
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.shadows);
    gl.viewport(0, 0, this.shadowSize, this.shadowSize);
    gl.clear(gl.DEPTH_BUFFER_BIT);
    gl.useProgram(programs.depth.program);
    gl.uniformMatrix4fv(programs.depth.at.view, false, light);
    gl.uniformMatrix4fv(programs.depth.at.model, false, pose([0, 0, 0, 1, 0, 0, 0]));
    for (const tile of this.plain ? [] : this.near(centre, 1.2)) this.paint(tile);
    this.bodies.forEach((body, k) => {
      gl.uniformMatrix4fv(programs.depth.at.model, false, models[k]);
      this.paint(body);
    });
    // from the eye
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    const { width, height } = this.canvas, aspect = width / height, fovy = aspect < 1 ? 1.0 : 0.72;
    const view = times(perspective(fovy, aspect, 0.03, 70), looking(camera.eye, camera.at));
    gl.viewport(0, 0, width, height);
    gl.clear(gl.DEPTH_BUFFER_BIT);
    const ahead = unit(sub(camera.at, camera.eye)), right = unit(cross(ahead, [0, 0, 1])), tall = Math.tan(fovy / 2);
    gl.useProgram(programs.sky.program);
    gl.disable(gl.DEPTH_TEST);
    gl.uniform3fv(programs.sky.at.ahead, ahead);
    gl.uniform3fv(programs.sky.at.right, right.map((x) => x * tall * aspect));
    gl.uniform3fv(programs.sky.at.up, cross(right, ahead).map((x) => x * tall));
    gl.uniform3fv(programs.sky.at.sun, this.sun);
    gl.bindVertexArray(this.none);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.enable(gl.DEPTH_TEST);
    const { ground, solid, flat } = programs;
    this.begin(ground, view, light, camera.eye);
    gl.uniform3fv(ground.at.ball, ball);
    gl.uniform3fv(ground.at.shift, [0, 0, 0]);
    gl.uniform3fv(ground.at.levels, field.size ? [0, field.top, Math.max(field.top / 6, 0.005)] : [0, 0, 0]);
    for (const tile of this.near(camera.eye, 22, ahead)) this.paint(tile);
    gl.uniform3fv(ground.at.shift, [Math.round(ball[0]), Math.round(ball[1]), field.size ? -0.1 : 0]);
    this.paint(this.plane);
    this.begin(solid, view, light, camera.eye);
    this.bodies.forEach((body, k) => {
      gl.uniformMatrix4fv(solid.at.model, false, models[k]);
      this.paint(body);
    });
    gl.useProgram(flat.program);
    gl.uniformMatrix4fv(flat.at.view, false, view);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    gl.depthMask(false);
    gl.bindVertexArray(this.strip.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.strip.buffer);
    for (const mark of marks) {
      gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(mark), gl.STREAM_DRAW);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, mark.length / 7);
    }
    gl.depthMask(true);
    gl.disable(gl.BLEND);
  }

  begin({ program, at }, view, light, eye) {
    const gl = this.gl;
    gl.useProgram(program);
    gl.uniformMatrix4fv(at.view, false, view);
    gl.uniformMatrix4fv(at.toLight, false, light);
    gl.uniform3fv(at.eye, eye);
    gl.uniform3fv(at.sun, this.sun);
  }

  near([x, y], far, ahead = [0, 0, 0]) { // of the ground, and not behind whoever looks ahead
    return this.tiles.filter(({ middle, reach }) => {
      const dx = middle[0] - x, dy = middle[1] - y;
      return Math.hypot(dx, dy) < far + reach && dx * ahead[0] + dy * ahead[1] > -reach - 0.5;
    });
  }

  paint({ array, count, type }) {
    this.gl.bindVertexArray(array);
    this.gl.drawElements(this.gl.TRIANGLES, count, type, 0);
  }
}

// -- Marks on the ground, strips of triangles ---------------------------------------------------------------------------

const BLUE = [0.03, 0.42, 0.66], ORANGE = [0.88, 0.42, 0.11], RED = [0.78, 0.12, 0.1];

function ribbon(points, field, lift = 0.007) { // points: [x, y, half of the width, red, green, blue, opacity]
  const out = [];
  for (let k = 0; k < points.length; k++) {
    const [x, y, half, ...tint] = points[k], a = points[Math.max(k - 1, 0)], b = points[Math.min(k + 1, points.length - 1)];
    const dx = b[0] - a[0], dy = b[1] - a[1], n = Math.hypot(dx, dy) || 1, ox = -dy / n * half, oy = dx / n * half;
    for (const s of [1, -1]) out.push(x + s * ox, y + s * oy, field.at(x + s * ox, y + s * oy) + lift, ...tint);
  }
  return out;
}

function arrow([x, y], [dx, dy], from, to, field) {
  const head = Math.min(0.1, 0.6 * (to - from)), points = [];
  const add = (r, half, opacity) => points.push([x + dx * r, y + dy * r, half, ...BLUE, opacity]);
  for (let k = 0; k <= 10; k++) add(from + (to - head - from) * k / 10, 0.017, 0.25 + 0.65 * k / 10);
  for (let k = 0; k <= 5; k++) add(to - head + head * k / 5 + 1e-4, 0.05 * (1 - k / 5), 0.9);
  return ribbon(points, field, 0.012);
}

function ring([x, y], radius, field) {
  return ribbon(Array.from({ length: 49 }, (_, k) => { const [c, s] = around(k / 48); return [x + radius * c, y + radius * s, 0.008, ...BLUE, 0.9]; }), field);
}

function dart(tip, [dx, dy], eye, opacity) { // in the air, to where somebody is pushed
  const side = unit(cross([dx, dy, 0], sub(eye, tip))), out = [];
  for (const [back, half] of [[0.42, 0.014], [0.13, 0.014], [0.13, 0.045], [0, 0]]) {
    for (const s of [1, -1]) out.push(tip[0] - back * dx + s * half * side[0], tip[1] - back * dy + s * half * side[1], tip[2] + s * half * side[2], ...RED, opacity);
  }
  return out;
}

// -- What comes from the server ----------------------------------------------------------------------------------------

const state = { connected: false, scene: null, status: {}, frames: [], place: 0, told: [0, 0], velocity: [0, 0], speed: 0, fps: 0, position: [0, 0, 0], bytes: 0, rate: 0, firstFrame: 0, stick: [0, 0] };
const DELAY = 0.035; // s that the page is behind, so that there is a frame on either side to draw between
const PLOTTED = 6; // s of tilt and torques that are plotted
const past = []; // what is plotted
let painter = null, blind = "", socket = null, late = Infinity, retry = 0, trail = [], pushedAt = -1e9, saidAt = -1e9, ownWords = "";

function fault(title = blind && "Nothing is drawn", text = blind) { // without arguments: it is gone
  $("fault").classList.toggle("shown", Boolean(title));
  $("fault").children[0].textContent = title;
  $("fault").children[1].textContent = text;
}

function connect() {
  clearTimeout(retry);
  socket = window.makeRobot?.() ?? new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/drive`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { Object.assign(state, { connected: true, frames: [] }); late = Infinity; trail = []; fault(); };
  socket.onmessage = ({ data }) => {
    state.bytes += data.length || data.byteLength;
    if (typeof data === "string") heard(JSON.parse(data));
    else if (new Float32Array(data, 0, 1)[0] === 1) framed(new Float32Array(data));
    else grounded(data);
  };
  socket.onclose = ({ reason }) => {
    state.connected = false;
    fault(reason ? "Disconnected" : "No connection", reason || "The robot's program has ended, or too many pages are open. Trying again ...");
    retry = setTimeout(connect, 1500);
  };
}

function heard(message) {
  if (message.kind === "scene") {
    state.scene = message;
    state.height = 0;
    if (painter) painter.setSolids(message.solids);
    $("name").textContent = `${message.name}, told a ${message.command === "velocity" ? "velocity" : message.command === "point" ? "place" : "direction"}`;
    $("turn-keys").hidden = !message.turns;
    $("torques").replaceChildren();
  } else if (message.kind === "status") {
    const before = state.status;
    if (before.said !== message.said || before.episode !== message.episode || before.pushes !== message.pushes || before.falls !== message.falls) {
      saidAt = before.said === undefined ? -1e9 : performance.now();
      ownWords = "";
    }
    if (before.pushes !== undefined && message.pushes > before.pushes) pushedAt = performance.now();
    if (before.episode !== message.episode) trail = [];
    Object.assign(state, { status: message, place: message.place });
  }
}

function framed(numbers) {
  const wheels = numbers[10], first = 11 + wheels, count = (numbers.length - first) / 7;
  const parts = Array.from({ length: count }, (_, k) => Array.from(numbers.subarray(first + 7 * k, first + 7 * k + 7)));
  const frame = {
    at: numbers[1], told: [numbers[2], numbers[3]], velocity: [numbers[4], numbers[5]], turn: numbers[6], tilt: numbers[7],
    goal: Number.isNaN(numbers[8]) ? null : [numbers[8], numbers[9]], torques: Array.from(numbers.subarray(11, first)), parts,
  };
  state.firstFrame = state.firstFrame || performance.now();
  if (!state.height && state.scene) { // about, m
    state.height = Math.max(...state.scene.solids.map(({ body, pos, size }) => parts[body][2] + turned(parts[body].slice(3), pos)[2] + size[0])) - parts[0][2];
    camera.distance = clamp(2.6 * (state.height + parts[0][2]), 0.8, 5);
  }
  late = Math.min(late + 1e-5, performance.now() / 1000 - frame.at); // the least that a frame took; clocks drift
  state.frames.push(frame);
  while (state.frames.length > 30) state.frames.shift();
  past.push({ at: frame.at, tilt: frame.tilt, torques: frame.torques });
  while (past[0].at < frame.at - PLOTTED || past[0].at > frame.at) past.shift();
}

function grounded(data) {
  const [, size, length, top] = new Float32Array(data, 0, 4);
  if (painter) painter.setField(new Field(size, length, top, new Uint16Array(data, 16)));
  trail = [];
}

function between() { // the frame to draw now
  const { frames } = state;
  if (!frames.length) return null;
  const due = performance.now() / 1000 - late - DELAY;
  let k = frames.length - 1;
  while (k > 0 && frames[k - 1].at > due) k--;
  const b = frames[k], a = frames[Math.max(k - 1, 0)];
  const jump = Math.hypot(...sub(a.parts[0], b.parts[0])) > 0.2, share = b.at > a.at ? clamp((due - a.at) / (b.at - a.at), 0, 1) : 1;
  if (jump || share === 1) return b;
  const parts = b.parts.map((q, i) => {
    const p = a.parts[i], near = p[3] * q[3] + p[4] * q[4] + p[5] * q[5] + p[6] * q[6] < 0 ? -1 : 1;
    const mixed = q.map((x, j) => (1 - share) * p[j] + share * x * (j < 3 ? 1 : near)), n = Math.hypot(...mixed.slice(3));
    return mixed.map((x, j) => (j < 3 ? x : x / n));
  });
  return { ...b, parts };
}

// -- What is pressed ---------------------------------------------------------------------------------------------------

const DRIVES = {
  KeyW: [0, 1], ArrowUp: [0, 1], KeyS: [0, -1], ArrowDown: [0, -1], KeyA: [-1, 0], ArrowLeft: [-1, 0], KeyD: [1, 0], ArrowRight: [1, 0],
};
const PRESSES = { Space: "push", KeyN: "next", KeyR: "reset", KeyM: "slow", KeyX: "stop", KeyC: "cruise" };
const held = new Set();
const camera = { azimuth: Math.PI / 2 - 0.35, elevation: 0.3, distance: 1.7, at: [0, 0, 0.28], eye: [0, -2, 1] };
let pad = [0, 0], cruise = null, letGoSince = false, sent = "", sentAt = 0, padName = "", buttons = [];

function asSeen([right, ahead]) { // from the screen to the world
  const c = Math.cos(camera.azimuth), s = Math.sin(camera.azimuth);
  return [c * ahead + s * right, s * ahead - c * right];
}

function toScreen([x, y]) {
  const c = Math.cos(camera.azimuth), s = Math.sin(camera.azimuth);
  return [s * x - c * y, c * x + s * y];
}

function press(what) {
  if (what === "stop") { held.clear(); pad = [0, 0]; cruise = null; return; }
  if (what === "cruise") {
    if (!cruise && Math.hypot(...state.stick) <= 0.05) say("steer, and then go on by C");
    else cruise = cruise ? null : [...state.stick];
    letGoSince = false;
    return;
  }
  tell({ press: what, ...(what === "push" ? { along: asSeen([0, 1]) } : {}) });
}

function tell(message) {
  if (state.connected && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function steer() { // keys, pad and gamepad together, as often as needed
  let [x, y, turn] = [pad[0], pad[1], 0];
  for (const key of held) if (DRIVES[key]) { x += DRIVES[key][0]; y += DRIVES[key][1]; }
  turn += (held.has("KeyQ") ? 1 : 0) - (held.has("KeyE") ? 1 : 0);
  const gently = held.has("ShiftLeft") || held.has("ShiftRight") ? 0.4 : 1;
  const gamepad = [...(navigator.getGamepads?.() ?? [])].find((one) => one && one.connected && one.axes.length >= 2);
  if (gamepad) {
    const [gx, gy, cx = 0, cy = 0] = gamepad.axes, dead = (v) => (Math.abs(v) < 0.15 ? 0 : v);
    x += dead(gx);
    y -= dead(gy);
    look(-0.035 * dead(cx), 0.025 * dead(cy));
    const now = gamepad.buttons.map((button) => button.pressed), isNew = (k) => now[k] && !buttons[k];
    turn += (gamepad.buttons[6]?.value ?? 0) - (gamepad.buttons[7]?.value ?? 0);
    for (const [k, what] of [[0, "push"], [1, "stop"], [2, "reset"], [3, "next"], [4, "cruise"], [5, "slow"]]) if (isNew(k)) press(what);
    buttons = now;
  }
  const n = Math.hypot(x, y), scale = n > 1 ? 1 / n : 1;
  let stick = n > 0 ? asSeen([x * scale * gently, y * scale * gently]) : [0, 0];
  if (n <= 0.05) letGoSince = true;
  else if (letGoSince) cruise = null; // who steers anew drives again
  if (cruise) stick = cruise;
  state.stick = stick.map((v) => Math.round(1e4 * v) / 1e4);
  const message = JSON.stringify({ stick: state.stick, turn: clamp(turn, -1, 1) }), now = performance.now();
  if ((message !== sent && now - sentAt > 25) || now - sentAt > 150) {
    tell(JSON.parse(message));
    sent = message;
    sentAt = now;
  }
}

function look(turn, rise) {
  camera.azimuth += turn;
  camera.elevation = clamp(camera.elevation + rise, -0.05, 1.45);
}

function listen() {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (PRESSES[event.code] && !event.repeat) press(PRESSES[event.code]);
    if (DRIVES[event.code] || PRESSES[event.code]) event.preventDefault();
    held.add(event.code);
  });
  addEventListener("keyup", ({ code }) => held.delete(code));
  const letGo = () => { held.clear(); pad = [0, 0]; };
  addEventListener("blur", letGo);
  document.addEventListener("visibilitychange", () => { letGo(); if (document.hidden) { cruise = null; steer(); } });
  addEventListener("gamepadconnected", ({ gamepad }) => { padName = gamepad.id; say(`gamepad: ${padName.slice(0, 40)}`); });
  addEventListener("gamepaddisconnected", () => { buttons = []; cruise = null; say("the gamepad is gone: its stick is let go"); });
  for (const button of document.querySelectorAll("[data-press]")) {
    button.addEventListener("click", () => { press(button.dataset.press); button.blur(); });
  }
  const padCanvas = $("pad"), move = (event) => {
    const box = padCanvas.getBoundingClientRect(), r = 0.38 * box.width;
    const x = (event.clientX - box.left - box.width / 2) / r, y = -(event.clientY - box.top - box.height / 2) / r, n = Math.max(Math.hypot(x, y), 1);
    pad = [x / n, y / n];
  };
  padCanvas.addEventListener("pointerdown", (event) => { padCanvas.setPointerCapture(event.pointerId); move(event); });
  padCanvas.addEventListener("pointermove", (event) => { if (padCanvas.hasPointerCapture(event.pointerId)) move(event); });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) padCanvas.addEventListener(end, () => { pad = [0, 0]; });
  const view = $("view"), fingers = new Map();
  view.addEventListener("pointerdown", (event) => { view.setPointerCapture(event.pointerId); fingers.set(event.pointerId, [event.clientX, event.clientY]); });
  view.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    if (fingers.size === 1) look(-0.006 * (now[0] - before[0]), 0.005 * (now[1] - before[1]));
    else {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1], apart = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]);
      zoom(apart(before) / Math.max(apart(now), 1));
    }
    fingers.set(event.pointerId, now);
  });
  for (const end of ["pointerup", "pointercancel"]) view.addEventListener(end, ({ pointerId }) => fingers.delete(pointerId));
  view.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(0.0012 * event.deltaY)); }, { passive: false });
}

function zoom(by) { camera.distance = clamp(camera.distance * by, 0.5, 9); }

// -- What is shown -----------------------------------------------------------------------------------------------------

function say(text) { // of this page's own, until the robot has news
  ownWords = text;
  saidAt = performance.now();
}

function show(frame) {
  const { status, scene } = state, now = performance.now(), spectator = state.place > 0;
  const role = !state.connected ? "connecting" : spectator ? `watching, ${state.place} before you` : "you drive";
  put("role", role);
  $("role").classList.toggle("watches", spectator || !state.connected);
  put("ground", status.ground ? `ground: ${status.ground}` : "");
  const isLate = status.rate < 0.95, slow = status.speed && status.speed !== 1 ? `${status.speed} x, slow motion` : "";
  put("rate", status.rate === undefined ? "" : isLate ? `lags: ${Math.round(100 * status.rate)} % of ${slow || "real time"}` : slow || "real time");
  $("rate").classList.toggle("late", isLate);
  put("more", `${Math.round(state.fps)} fps${status.viewers > 1 ? ` · ${status.viewers} pages` : ""}${status.falls ? ` · ${status.falls} ${status.falls === 1 ? "fall" : "falls"}` : ""}`);
  put("said", ownWords || status.said || "");
  $("said").classList.toggle("shown", now - saidAt < 2200 || Boolean(status.lies));
  for (const button of document.querySelectorAll("[data-press]")) {
    button.disabled = spectator;
    button.classList.toggle("on", (button.dataset.press === "cruise" && Boolean(cruise)) || (button.dataset.press === "slow" && status.speed < 1));
  }
  if (!frame || !scene) return;
  const told = Math.hypot(...frame.told), speed = Math.hypot(...frame.velocity);
  state.speed += 0.12 * (speed - state.speed);
  Object.assign(state, { told: frame.told, velocity: frame.velocity, position: frame.parts[0].slice(0, 3), tilt: frame.tilt });
  const [right, ahead] = toScreen(frame.told), degrees = Math.round(Math.atan2(right, ahead) * 360 / TAU);
  const turning = frame.turn ? `, ${frame.turn.toFixed(1)} rad/s` : "";
  put("told", scene.command === "velocity" ? (told < 1e-3 && !turning ? "stand" : `${told.toFixed(2)} m/s${turning}`)
    : frame.goal ? `${Math.hypot(frame.goal[0] - state.position[0], frame.goal[1] - state.position[1]).toFixed(2)} m away` : told < 0.5 ? "stand" : `go, ${degrees}°`);
  put("speed", `${state.speed.toFixed(2)} m/s`);
  put("tilt", `${frame.tilt.toFixed(1)}°`);
  const most = Math.max(...frame.torques.map(Math.abs));
  put("torque", `${most.toFixed(1)} N m`);
  bar("told-bar", scene.command === "velocity" ? told / scene.fastest : told, "var(--told)");
  bar("speed-bar", state.speed / 0.5, "var(--moves)");
  bar("tilt-bar", frame.tilt / scene.tilt_limit, frame.tilt > 0.7 * scene.tilt_limit ? "#b3261e" : "var(--faint)");
  const rows = $("torques");
  while (rows.childElementCount < frame.torques.length) rows.insertAdjacentHTML("beforeend", '<div class="bar two"><i></i></div>');
  frame.torques.forEach((torque, k) => {
    const share = clamp(torque / scene.torque, -1, 1), style = rows.children[k].firstChild.style;
    style.left = `${50 + Math.min(50 * share, 0)}%`;
    style.width = `${Math.abs(50 * share)}%`;
  });
  compass(frame, scene);
  plots(scene);
}

const LINES = ["#0b74a8", "#e06a1c", "#5b8c3a", "#8a5aa8"]; // of the wheels' torques

function plots(scene) { // tilt and torques of the last seconds
  const canvas = $("plots"), ratio = devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight, g = canvas.getContext("2d");
  if (!w || !past.length) return;
  const [width, height] = [w, h].map((x) => Math.round(x * ratio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, w, h);
  const upTo = (most, steps) => steps.find((step) => step >= most) ?? steps[steps.length - 1], now = past[past.length - 1].at;
  const tilt = upTo(Math.max(...past.map((one) => one.tilt)), [2, 5, 10, 20, 45, 90, 180]);
  const torque = upTo(Math.max(...past.flatMap((one) => one.torques.map(Math.abs))), [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, scene.torque]);
  const half = h / 2, strips = [
    [`tilt, to ${tilt}°`, 16, half - 5, 0, tilt, [[(one) => one.tilt, "#22262b"]]],
    [`torques, ±${torque} N m`, half + 18, h - 2, -torque, torque, past[0].torques.map((_, k) => [(one) => one.torques[k], LINES[k % LINES.length]])],
  ];
  g.font = "11px system-ui, sans-serif";
  g.lineJoin = "round";
  for (const [label, top, bottom, low, high, lines] of strips) {
    const y = (value) => bottom - (bottom - top) * clamp((value - low) / (high - low), 0, 1);
    g.fillStyle = "#6b7380";
    g.fillText(label, 0, top - 5);
    g.strokeStyle = "rgba(34, 38, 43, .18)";
    g.lineWidth = 1;
    g.beginPath(); g.moveTo(0, y(0)); g.lineTo(w, y(0)); g.stroke();
    g.lineWidth = 1.4;
    for (const [value, colour] of lines) {
      g.strokeStyle = colour;
      g.beginPath();
      for (const one of past) g.lineTo(w * (1 - (now - one.at) / PLOTTED), y(value(one)));
      g.stroke();
    }
  }
}

const shown = {};
function put(id, text) { if (shown[id] !== text) $(id).textContent = shown[id] = text; }
function bar(id, share, colour) { const { style } = $(id); style.width = `${100 * clamp(share, 0, 1)}%`; style.background = colour; }

function compass(frame, scene) {
  const canvas = $("pad"), ratio = devicePixelRatio || 1, n = Math.round(canvas.clientWidth * ratio), g = canvas.getContext("2d");
  if (canvas.width !== n) canvas.width = canvas.height = n;
  g.setTransform(n / 132, 0, 0, n / 132, n / 2, n / 2);
  g.clearRect(-66, -66, 132, 132);
  const R = 60, r = 50;
  g.beginPath(); g.arc(0, 0, R, 0, TAU); g.fillStyle = "rgba(255,255,255,.75)"; g.fill();
  g.lineWidth = 1; g.strokeStyle = "rgba(34,38,43,.2)"; g.stroke();
  g.beginPath(); g.arc(0, 0, r / 2, 0, TAU); g.moveTo(-r, 0); g.lineTo(r, 0); g.moveTo(0, -r); g.lineTo(0, r); g.strokeStyle = "rgba(34,38,43,.1)"; g.stroke();
  const scale = r / (scene.command === "velocity" ? scene.fastest : 1), [vx, vy] = toScreen(frame.velocity).map((v) => v * r / (scene.command === "velocity" ? scene.fastest : 0.5));
  const [tx, ty] = toScreen(frame.told).map((v) => v * scale), fits = Math.max(Math.hypot(vx, vy) / R, 1);
  g.lineCap = "round";
  g.beginPath(); g.moveTo(0, 0); g.lineTo(tx, -ty); g.lineWidth = 2; g.strokeStyle = "rgba(11,116,168,.45)"; g.stroke();
  g.beginPath(); g.moveTo(0, 0); g.lineTo(vx / fits, -vy / fits); g.lineWidth = 5; g.strokeStyle = "#e06a1c"; g.stroke();
  g.beginPath(); g.arc(tx, -ty, 10, 0, TAU); g.fillStyle = "#0b74a8"; g.fill();
  g.lineWidth = 2; g.strokeStyle = "#fff"; g.stroke();
}

function marks(frame, ball) {
  const { field } = painter, found = [], told = Math.hypot(...frame.told), foot = [ball[0], ball[1]];
  const last = trail[trail.length - 1];
  if (!last || Math.hypot(ball[0] - last[0], ball[1] - last[1]) > 0.02) trail.push(foot);
  if (trail.length > 500) trail.shift();
  if (trail.length > 2) found.push(ribbon(trail.map(([x, y], k) => [x, y, 0.009, ...ORANGE, 0.75 * Math.min(1, k / 200 + (500 - trail.length) / 1000)]), field, 0.005));
  if (told > 1e-3 && !frame.goal) {
    const length = state.scene.command === "velocity" ? told / state.scene.fastest : 1;
    found.push(arrow(foot, frame.told.map((x) => x / told), 0.15, 0.19 + 0.3 * length, field));
  }
  if (frame.goal) found.push(ring(frame.goal, 0.1, field), ring(frame.goal, 0.01, field));
  const since = (performance.now() - pushedAt) / 700;
  if (since < 1 && state.status.pushed) {
    const [px, py, pz] = frame.parts[0], [dx, dy] = state.status.pushed;
    found.push(dart([px - 0.14 * dx, py - 0.14 * dy, pz + 0.22], [dx, dy], camera.eye, 1 - since * since));
  }
  return found;
}

function follow([x, y, z], seconds) {
  const share = 1 - Math.exp(-seconds / 0.12), far = Math.hypot(x - camera.at[0], y - camera.at[1]) > 1.5;
  const aim = [x, y, z + 0.5 * state.height - 0.13];
  camera.at = camera.at.map((v, k) => v + (far ? 1 : share) * (aim[k] - v));
  const c = Math.cos(camera.elevation), back = camera.distance * (innerWidth < 700 ? 1.25 : 1);
  camera.eye = [camera.at[0] - back * c * Math.cos(camera.azimuth), camera.at[1] - back * c * Math.sin(camera.azimuth), camera.at[2] + back * Math.sin(camera.elevation)];
  camera.eye[2] = Math.max(camera.eye[2], painter.field.at(camera.eye[0], camera.eye[1]) + 0.08);
}

let before = performance.now(), counted = 0, countedAt = before, bytesAt = 0;

function ballOf(parts) { // its body is that of the solid which is by far the largest sphere
  const spheres = state.scene.solids.filter(({ shape }) => shape === "sphere");
  return parts[spheres.reduce((a, b) => (b.size[0] > a.size[0] ? b : a), spheres[0]).body].slice(0, 3);
}

function draw() {
  requestAnimationFrame(draw);
  const now = performance.now(), seconds = (now - before) / 1000;
  before = now;
  counted++;
  if (now - countedAt > 1000) {
    Object.assign(state, { fps: 1000 * counted / (now - countedAt), rate: 1000 * (state.bytes - bytesAt) / (now - countedAt) });
    if (painter && state.fps < 25 && !document.hidden) { // a slow machine: fewer pixels, and shadows of the robot alone
      painter.plain = true;
      painter.scale = Math.max(0.8 * painter.scale, 0.5);
    }
    [counted, countedAt, bytesAt] = [0, now, state.bytes];
  }
  const frame = between();
  show(frame);
  if (!frame || !state.scene || !painter) return;
  const ball = ballOf(frame.parts);
  follow(frame.parts[0], seconds);
  painter.draw(frame.parts, ball, camera, marks(frame, ball));
}

function start() {
  try {
    painter = new Painter($("view"));
    $("view").addEventListener("webglcontextlost", (event) => { event.preventDefault(); location.reload(); });
  } catch (error) {
    blind = error.message;
  }
  listen();
  setInterval(steer, 20); // however slowly the page is drawn
  connect();
  draw();
}

window.drive = { state, camera, held };
start();

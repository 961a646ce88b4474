/* Classifies a picture with the sparse network that sparsecc compiled and, where the build could install it, with
 * ONNX Runtime Web on the dense one. Both run in this thread, in WebAssembly, in turns. demo.json says what was
 * built; the document's event `classified` carries pixels and logits to whoever wants to check them.
 */
import { Model, inputs, outputs } from './model.scc/model.mjs';

const SIDE = inputs[0].shape[3];
const WARM_UP = 3;
const RUNS = 31;
const BEST = 5;

const part = (id) => document.getElementById(id);
const main = document.querySelector('main');
const facts = await (await fetch('demo.json')).json();
const engines = [];
let waiting = 0;
let last = Promise.resolve();

/** The centre square of a picture as float32 [1, 3, SIDE, SIDE], (x - 127) / 128, as the network was trained. */
async function pixelsOf(picture) {
    const bitmap = await createImageBitmap(picture);
    const side = Math.min(bitmap.width, bitmap.height);
    const context = part('picture').getContext('2d', { willReadFrequently: true });
    context.imageSmoothingQuality = 'high';
    context.fillStyle = 'white';
    context.fillRect(0, 0, SIDE, SIDE);
    const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
    context.drawImage(bitmap, left, top, side, side, 0, 0, SIDE, SIDE);
    bitmap.close();
    const { data } = context.getImageData(0, 0, SIDE, SIDE);
    const plane = SIDE * SIDE;
    const pixels = new Float32Array(3 * plane);
    for (let i = 0; i < plane; i += 1) {
        for (let channel = 0; channel < 3; channel += 1) {
            pixels[channel * plane + i] = (data[4 * i + channel] - 127) / 128;
        }
    }
    return pixels;
}

async function openSparse() {
    const model = await Model.load();
    return {
        title: `sparsecc, ${facts.pattern}, ${Math.round(100 * facts.zeros)} % zeros`,
        run: async (pixels) => model.run({ [inputs[0].name]: pixels })[outputs[0].name],
    };
}

async function openDense() {
    const ort = await import('./onnxruntime-web/ort.wasm.min.mjs');
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = new URL('onnxruntime-web/', import.meta.url).href;
    const session = await ort.InferenceSession.create('dense.onnx', { executionProviders: ['wasm'] });
    const [input, output] = [session.inputNames[0], session.outputNames[0]];
    return {
        title: `${facts.peer}, dense`,
        run: async (pixels) => {
            const made = await session.run({ [input]: new ort.Tensor('float32', pixels, inputs[0].shape) });
            return made[output].data;
        },
    };
}

/** Classes with the largest probabilities: [class, probability], best first. */
function bestOf(logits) {
    const largest = logits.reduce((a, b) => Math.max(a, b));
    const powers = Array.from(logits, (x) => Math.exp(x - largest));
    const sum = powers.reduce((a, b) => a + b);
    const order = [...powers.keys()].sort((a, b) => powers[b] - powers[a]);
    return order.slice(0, BEST).map((number) => [number, powers[number] / sum]);
}

/** Median milliseconds of each engine, in turns; null if another picture came meanwhile. */
async function timesOf(pixels) {
    const times = engines.map(() => []);
    for (let round = -WARM_UP; round < RUNS; round += 1) {
        for (const [index, engine] of engines.entries()) {
            const begin = performance.now();
            await engine.run(pixels);
            if (round >= 0) times[index].push(performance.now() - begin);
        }
        await new Promise((resume) => { setTimeout(resume); });
        if (waiting > 0) return null;
    }
    return times.map((some) => some.sort((a, b) => a - b)[(RUNS - 1) / 2]);
}

function element(name, text = '', properties = {}) {
    return Object.assign(document.createElement(name), { textContent: text, ...properties });
}

function say(state, text) {
    main.dataset.state = state;
    part('status').textContent = text;
}

function show(logits) {
    part('answers').replaceChildren(...engines.map((engine, index) => {
        const section = element('section');
        const list = element('ol');
        for (const [number, share] of bestOf(logits[index])) {
            const item = element('li');
            item.dataset.class = number;
            item.style.setProperty('--share', `${100 * share}% 100%`);
            item.append(element('span', facts.names?.[number] ?? `class ${number}`));
            item.append(element('span', `${(100 * share).toFixed(1)} %`));
            list.append(item);
        }
        section.append(element('h2', engine.title), element('div', '…', { className: 'latency' }), list);
        return section;
    }));
}

async function classify(picture) {
    say('busy', 'reading the picture');
    let pixels;
    try {
        pixels = await pixelsOf(picture);
    } catch {
        say('failed', `${picture.name ?? 'this'} is no picture that this browser can read`);
        return;
    }
    const logits = [];
    for (const engine of engines) logits.push(Float32Array.from(await engine.run(pixels)));
    show(logits);
    say('busy', `measuring ${RUNS} runs`);
    const times = await timesOf(pixels);
    if (times === null) return;
    for (const [index, place] of document.querySelectorAll('.latency').entries()) {
        place.textContent = `${times[index].toFixed(1)} ms`;
    }
    const ratio = times.length > 1 ? `; ${(times[1] / times[0]).toFixed(2)} times as fast` : '';
    say('done', `median of ${RUNS} runs in turns, one thread, WebAssembly${ratio}`);
    const detail = { pixels, logits, times, titles: engines.map((engine) => engine.title) };
    document.dispatchEvent(new CustomEvent('classified', { detail }));
}

/** Pictures are taken one after the other; the one that is being timed makes room for the next. */
function take(picture) {
    if (!picture) return;
    waiting += 1;
    last = last.then(() => {
        waiting -= 1;
        return classify(picture);
    }).catch((error) => say('failed', error.message));
}

function listen() {
    const drop = part('drop');
    part('file').addEventListener('change', (event) => take(event.target.files[0]));
    for (const kind of ['dragenter', 'dragover', 'dragleave', 'drop']) {
        drop.addEventListener(kind, (event) => {
            event.preventDefault();
            drop.classList.toggle('over', kind === 'dragenter' || kind === 'dragover');
        });
    }
    drop.addEventListener('drop', (event) => take(event.dataTransfer.files[0]));
    part('samples').replaceChildren(...facts.samples.map((path) => {
        const button = element('button', '', { type: 'button', title: path });
        button.append(element('img', '', { src: path, alt: path }));
        button.addEventListener('click', async () => take(await (await fetch(path)).blob()));
        return button;
    }));
}

part('about').textContent = facts.about;
const notes = [facts.quality];
try {
    engines.push(await openSparse());
    if (facts.peer === null) {
        notes.push(facts.missing);
    } else {
        await openDense().then(
            (engine) => engines.push(engine),
            (error) => notes.push(`${facts.peer} could not be loaded: ${error.message}`),
        );
    }
    listen();
    say('ready', 'choose a picture');
} catch (error) {
    say('failed', error.message);
}
part('notes').textContent = notes.join(' ');

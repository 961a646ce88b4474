/* Neural network @PREFIX@, compiled by sparsecc: a WebAssembly module without imports, and its weights.
 *
 *     import { Model } from './model.mjs';
 *     const model = await Model.load();              // or the URL of model.wasm; weights.bin lies beside it
 *     const outputs = model.run({ name: new Float32Array(...) });
 *
 * Runs in browsers, Node 18 and newer, Deno and Bun; needs WebAssembly SIMD. Tensors are row-major.
 */

/** Names, types, shapes and bytes of the inputs and outputs, in order. */
export const inputs = Object.freeze(@INPUTS@);
export const outputs = Object.freeze(@OUTPUTS@);

const WEIGHTS_BYTES = @WEIGHTS_BYTES@;
const EMBEDDED = @EMBEDDED@;
const ALIGNMENT = 64;
const ARRAYS = {
    float32: Float32Array, float64: Float64Array, float16: Uint16Array, bool: Uint8Array,
    int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
    uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
};
/* A module of one function with two vector instructions: engines without SIMD refuse it. */
const SIMD = Uint8Array.of(
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
);

async function read(url) {
    if (url.protocol === 'file:' && globalThis.process?.versions?.node) {
        const { readFile } = await import('node:fs/promises');
        return readFile(url);
    }
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url} cannot be read: ${response.status} ${response.statusText}`);
    return new Uint8Array(await response.arrayBuffer());
}

export class Model {
    #library;
    #handle;
    #places;

    /** Opens model.wasm at `url`, by default the one beside this file. */
    static async load(url = new URL('model.wasm', import.meta.url)) {
        if (!WebAssembly.validate(SIMD)) {
            throw new Error('this engine has no WebAssembly SIMD, which the model needs: use a newer one');
        }
        const module = new URL(url, globalThis.document?.baseURI ?? import.meta.url);
        const code = read(module);
        const weights = EMBEDDED ? null : await read(new URL('weights.bin', module));
        if (weights !== null && weights.byteLength !== WEIGHTS_BYTES) {
            throw new Error(`weights.bin has ${weights.byteLength} bytes, expected ${WEIGHTS_BYTES}`);
        }
        const { instance } = await WebAssembly.instantiate(await code, {});
        return new Model(instance.exports, weights);
    }

    /** Use `Model.load`. */
    constructor(library, weights) {
        this.#library = library;
        library._initialize?.();
        const tensors = [...inputs, ...outputs];
        const starts = tensors.map((tensor) => this.#allocate(tensor.bytes));
        this.#places = new Map(tensors.map((tensor, index) => [tensor, starts[index]]));
        const packed = weights === null ? 0 : this.#allocate(WEIGHTS_BYTES);
        if (packed !== 0) new Uint8Array(library.memory.buffer).set(weights, packed);
        /* model_options: path, weights, their size, arena, its size, threads */
        const options = this.#allocate(24);
        const handle = this.#allocate(4);
        new Uint32Array(library.memory.buffer, options, 6).set([0, packed, packed ? WEIGHTS_BYTES : 0, 0, 0, 1]);
        this.#check(library.@PREFIX@_create(options, handle));
        this.#handle = new Uint32Array(library.memory.buffer, handle, 1)[0];
        this.#places.set('inputs', this.#pointers(starts.slice(0, inputs.length)));
        this.#places.set('outputs', this.#pointers(starts.slice(inputs.length)));
    }

    /** Runs the network once: typed arrays by input name in, new ones by output name out. */
    run(given) {
        const names = inputs.map((tensor) => tensor.name);
        for (const name of Object.keys(given)) {
            if (!names.includes(name)) throw new Error(`there is no input ${name}: inputs are ${names.join(', ')}`);
        }
        const bytes = new Uint8Array(this.#library.memory.buffer);
        for (const tensor of inputs) {
            const array = given[tensor.name];
            const expected = ARRAYS[tensor.type];
            if (!(array instanceof expected)) {
                throw new Error(`input ${tensor.name}: expected a ${expected.name} for ${tensor.type}`);
            }
            if (array.byteLength !== tensor.bytes) {
                const length = tensor.bytes / expected.BYTES_PER_ELEMENT;
                const shape = tensor.shape.join(' x ');
                throw new Error(`input ${tensor.name}: expected ${length} numbers (${shape}), found ${array.length}`);
            }
            bytes.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), this.#places.get(tensor));
        }
        const [from, to] = [this.#places.get('inputs'), this.#places.get('outputs')];
        this.#check(this.#library.@PREFIX@_run(this.#handle, from, to));
        return Object.fromEntries(outputs.map((tensor) => {
            const start = this.#places.get(tensor);
            return [tensor.name, new ARRAYS[tensor.type](bytes.slice(start, start + tensor.bytes).buffer)];
        }));
    }

    #allocate(bytes) {
        const size = Math.max(ALIGNMENT, Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);
        const start = this.#library.aligned_alloc(ALIGNMENT, size);
        if (start === 0) throw new Error(`out of memory: ${size} bytes were not to be had`);
        return start >>> 0;
    }

    #pointers(starts) {
        const table = this.#allocate(4 * starts.length);
        new Uint32Array(this.#library.memory.buffer, table, starts.length).set(starts);
        return table;
    }

    #check(status) {
        if (status === 0) return;
        const bytes = new Uint8Array(this.#library.memory.buffer);
        const start = this.#library.@PREFIX@_error_string(status);
        throw new Error(new TextDecoder().decode(bytes.slice(start, bytes.indexOf(0, start))));
    }
}

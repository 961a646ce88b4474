/** An input or output: row-major, without gaps. */
export interface Tensor {
    readonly name: string;
    readonly type: string;
    readonly shape: readonly number[];
    readonly bytes: number;
}

export interface Inputs {
@INPUT_TYPES@
}

export interface Outputs {
@OUTPUT_TYPES@
}

export declare const inputs: readonly Tensor[];
export declare const outputs: readonly Tensor[];

export declare class Model {
    private constructor();
    /** Opens model.wasm at `url`, by default the one beside this file. */
    static load(url?: URL | string): Promise<Model>;
    /** Runs the network once. */
    run(inputs: Inputs): Outputs;
}

// The network @PREFIX@ for Kotlin: put this file into the app's sources, and see CMakeLists.txt.
//
//     Model(context.filesDir.resolve("weights.bin").path, threads = 2).use { model ->
//         val outputs = model.run(mapOf("x" to floats))
//     }
//
// Weights that are not embedded are an asset that the app copies to a file once: they are mapped, not read.
package sparsecc.@PREFIX@

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Runs one input at a time; make one for each thread that runs the network. */
class Model(weights: String?, threads: Int = 1) : AutoCloseable {
    /** An input or output: row-major, without gaps; [type] is such as `float32` or `int64`. */
    class Tensor(val name: String, val type: String, val shape: LongArray, val bytes: Long)

    private var handle: Long = create(weights, threads)

    /** Copies direct or other buffers of bytes in the order of [inputs]; returns those of [outputs]. */
    fun run(values: List<ByteBuffer>): List<ByteBuffer> {
        check(handle != 0L) { "the model is closed" }
        val from = values.map { if (it.isDirect) it else direct(it.remaining().toLong()).apply { put(it); rewind() } }
        val to = outputs.map { direct(it.bytes) }
        run(handle, from.toTypedArray(), to.toTypedArray())
        return to
    }

    /** The same with floats by name, for networks whose inputs and outputs all are float32. */
    fun run(values: Map<String, FloatArray>): Map<String, FloatArray> {
        require(values.keys == inputs.map { it.name }.toSet()) { "the inputs are ${inputs.map { it.name }}" }
        require((inputs + outputs).all { it.type == "float32" }) { "not all tensors are float32: give buffers" }
        val from = inputs.map { input ->
            val array = values.getValue(input.name)
            require(array.size * 4L == input.bytes) { "${input.name} has ${input.bytes / 4} elements" }
            direct(input.bytes).apply { asFloatBuffer().put(array) }
        }
        return outputs.zip(run(from)).associate { (output, buffer) ->
            output.name to FloatArray((output.bytes / 4).toInt()).also { buffer.asFloatBuffer().get(it) }
        }
    }

    override fun close() {
        destroy(handle)
        handle = 0L
    }

    companion object {
        init {
            System.loadLibrary("@PREFIX@_jni")
        }

        /** In the order of [run]. */
        val inputs: List<Tensor> = tensors(false)

        /** In the order in which [run] returns them. */
        val outputs: List<Tensor> = tensors(true)

        private fun tensors(output: Boolean): List<Tensor> =
            generateSequence(0) { it + 1 }
                .takeWhile { nameOf(output, it) != null }
                .map { Tensor(nameOf(output, it)!!, typeOf(output, it)!!, shapeOf(output, it)!!, bytesOf(output, it)) }
                .toList()

        private fun direct(bytes: Long): ByteBuffer =
            ByteBuffer.allocateDirect(bytes.toInt()).order(ByteOrder.nativeOrder())

        @JvmStatic private external fun create(weights: String?, threads: Int): Long

        @JvmStatic private external fun run(handle: Long, inputs: Array<ByteBuffer>, outputs: Array<ByteBuffer>)

        @JvmStatic private external fun destroy(handle: Long)

        @JvmStatic private external fun nameOf(output: Boolean, index: Int): String?

        @JvmStatic private external fun typeOf(output: Boolean, index: Int): String?

        @JvmStatic private external fun shapeOf(output: Boolean, index: Int): LongArray?

        @JvmStatic private external fun bytesOf(output: Boolean, index: Int): Long
    }
}

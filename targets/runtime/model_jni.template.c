/* Calls the network from the class sparsecc.@PREFIX@.Model of Model.kt; CMakeLists.txt builds it. */
#include <jni.h>
#include <stdlib.h>

#include "model.h"

static void throw_new(JNIEnv *env, const char *type, const char *why) {
    jclass found = (*env)->FindClass(env, type);
    if (found != NULL) (*env)->ThrowNew(env, found, why);
}

static jlong create(JNIEnv *env, jclass self, jstring weights, jint threads) {
    (void)self;
    @PREFIX@_options options = {0};
    options.threads = threads;
    if (weights != NULL) {
        options.weights_path = (*env)->GetStringUTFChars(env, weights, NULL);
        if (options.weights_path == NULL) return 0;
    }
    @PREFIX@_handle *handle = NULL;
    const int32_t status = @PREFIX@_create(&options, &handle);
    if (weights != NULL) (*env)->ReleaseStringUTFChars(env, weights, options.weights_path);
    if (status != @UPPER@_OK) throw_new(env, "java/lang/IllegalStateException", @PREFIX@_error_string(status));
    return (jlong)(intptr_t)handle;
}

/* Addresses of direct buffers that are large enough; 0 after an exception. */
static int addresses(JNIEnv *env, jobjectArray buffers, int count, int output, void **found) {
    if ((*env)->GetArrayLength(env, buffers) != count) {
        throw_new(env, "java/lang/IllegalArgumentException", "another number of buffers than the network has");
        return 0;
    }
    for (int i = 0; i < count; ++i) {
        const @PREFIX@_tensor *tensor = output ? @PREFIX@_output(i) : @PREFIX@_input(i);
        jobject buffer = (*env)->GetObjectArrayElement(env, buffers, i);
        found[i] = buffer == NULL ? NULL : (*env)->GetDirectBufferAddress(env, buffer);
        const jlong bytes = found[i] == NULL ? -1 : (*env)->GetDirectBufferCapacity(env, buffer);
        (*env)->DeleteLocalRef(env, buffer);
        if (bytes < 0 || (size_t)bytes < tensor->bytes) {
            throw_new(env, "java/lang/IllegalArgumentException", tensor->name);
            return 0;
        }
    }
    return 1;
}

static void run(JNIEnv *env, jclass self, jlong handle, jobjectArray inputs, jobjectArray outputs) {
    (void)self;
    void *from[@UPPER@_INPUTS + 1], *to[@UPPER@_OUTPUTS + 1];
    if (!addresses(env, inputs, @UPPER@_INPUTS, 0, from)) return;
    if (!addresses(env, outputs, @UPPER@_OUTPUTS, 1, to)) return;
    const int32_t status = @PREFIX@_run((@PREFIX@_handle *)(intptr_t)handle, (const void *const *)from, to);
    if (status != @UPPER@_OK) throw_new(env, "java/lang/IllegalStateException", @PREFIX@_error_string(status));
}

static void destroy(JNIEnv *env, jclass self, jlong handle) {
    (void)env;
    (void)self;
    @PREFIX@_destroy((@PREFIX@_handle *)(intptr_t)handle);
}

static const @PREFIX@_tensor *tensor(jboolean output, jint index) {
    return output ? @PREFIX@_output(index) : @PREFIX@_input(index);
}

static jstring name_of(JNIEnv *env, jclass self, jboolean output, jint index) {
    (void)self;
    const @PREFIX@_tensor *found = tensor(output, index);
    return found == NULL ? NULL : (*env)->NewStringUTF(env, found->name);
}

static jstring type_of(JNIEnv *env, jclass self, jboolean output, jint index) {
    (void)self;
    const @PREFIX@_tensor *found = tensor(output, index);
    return found == NULL ? NULL : (*env)->NewStringUTF(env, found->type);
}

static jlongArray shape_of(JNIEnv *env, jclass self, jboolean output, jint index) {
    (void)self;
    const @PREFIX@_tensor *found = tensor(output, index);
    if (found == NULL) return NULL;
    jlongArray made = (*env)->NewLongArray(env, found->rank);
    for (int32_t i = 0; made != NULL && i < found->rank; ++i) {
        const jlong size = found->shape[i];
        (*env)->SetLongArrayRegion(env, made, i, 1, &size);
    }
    return made;
}

static jlong bytes_of(JNIEnv *env, jclass self, jboolean output, jint index) {
    (void)env;
    (void)self;
    const @PREFIX@_tensor *found = tensor(output, index);
    return found == NULL ? -1 : (jlong)found->bytes;
}

JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM *machine, void *reserved) {
    (void)reserved;
    JNIEnv *env = NULL;
    if ((*machine)->GetEnv(machine, (void **)&env, JNI_VERSION_1_6) != JNI_OK) return JNI_ERR;
    const JNINativeMethod methods[] = {
        {"create", "(Ljava/lang/String;I)J", (void *)create},
        {"run", "(J[Ljava/nio/ByteBuffer;[Ljava/nio/ByteBuffer;)V", (void *)run},
        {"destroy", "(J)V", (void *)destroy},
        {"nameOf", "(ZI)Ljava/lang/String;", (void *)name_of},
        {"typeOf", "(ZI)Ljava/lang/String;", (void *)type_of},
        {"shapeOf", "(ZI)[J", (void *)shape_of},
        {"bytesOf", "(ZI)J", (void *)bytes_of},
    };
    jclass found = (*env)->FindClass(env, "sparsecc/@PREFIX@/Model");
    if (found == NULL) return JNI_ERR;
    const jint count = (jint)(sizeof methods / sizeof *methods);
    return (*env)->RegisterNatives(env, found, methods, count) == JNI_OK ? JNI_VERSION_1_6 : JNI_ERR;
}

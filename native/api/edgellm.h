/* SPDX-License-Identifier: MIT */
/* edgellm's C API: runs a GGUF model that holds its program, which `edgellm export` writes into a copy of any
 * model that edgellm runs. No Python is needed on the device.
 *
 *     edgellm_model* model;
 *     if (edgellm_open("model.gguf", NULL, &model) != EDGELLM_OK) puts(edgellm_error());
 *
 * Errors. Functions that can fail return an edgellm_status; edgellm_error() says in a sentence what went
 * wrong. A call that failed has changed nothing, unless it says so.
 *
 * Threads. One thread at a time uses a model and its sequences; any thread may, and models do not share
 * anything. A model has threads of its own, which work inside calls only. After fork() a child must not use a
 * model.
 *
 * Memory. Callers own what they pass in, and it need only live during the call. Functions that fill an array
 * take its capacity and say in *n how much there is: if that is more than the capacity, they fill nothing and
 * return EDGELLM_TOO_SMALL, so that a call with capacity 0 asks for the size. Text is UTF-8 and carries its
 * length in bytes; it ends with no zero byte. */
#ifndef EDGELLM_H
#define EDGELLM_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(EDGELLM_BUILD)
#define EDGELLM_API __declspec(dllexport)
#elif defined(_WIN32)
#define EDGELLM_API __declspec(dllimport)
#else
#define EDGELLM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum edgellm_status {
    EDGELLM_OK = 0,
    EDGELLM_BAD_ARGUMENT = 1, /* a null pointer, a token or a sequence that does not exist */
    EDGELLM_TOO_SMALL = 2,    /* the array is too small for the result; *n is the size */
    EDGELLM_FILE = 3,         /* the system could not open or map the file */
    EDGELLM_MODEL = 4,        /* the file is damaged, holds no program, or this model cannot do it */
    EDGELLM_NO_MEMORY = 5,    /* the system refused memory */
    EDGELLM_CONTEXT_FULL = 6, /* the sequence, or all sequences together, would grow past the options */
    EDGELLM_INTERNAL = 7      /* anything else, such as a thread that could not be started */
} edgellm_status;

/* Version of the library, such as "0.1.0". */
EDGELLM_API const char* edgellm_version(void);

/* Reason of the last failed call on the calling thread, one sentence, UTF-8, zero-terminated; empty if none
 * failed. Valid until the next call on this thread. */
EDGELLM_API const char* edgellm_error(void);

typedef struct edgellm_model edgellm_model;

/* Sizes of a loaded model; 0 in a field stands for its default. */
typedef struct edgellm_options {
    /* Threads that compute; default: one for each CPU that the process may use. */
    uint32_t n_threads;
    /* Most tokens of a sequence; default: 4096, or what the model was trained for if that is less. */
    uint32_t n_context;
    /* Full sequences that the cache has room for; default: 1. */
    uint32_t n_sequences;
    /* Most tokens of one step of the engine; default: 512. */
    uint32_t n_batch;
} edgellm_options;

/* Opens and loads a model. path: UTF-8. options: NULL for the defaults. The file is mapped as long as the
 * model is open and must not be changed. *model is the caller's, who ends it with edgellm_close. The
 * instruction set is the best that the CPU has, or the one that the environment variable EDGELLM_ISA names.
 */
EDGELLM_API edgellm_status edgellm_open(const char* path, const edgellm_options* options,
                                        edgellm_model** model);

/* The same for a part of an open file, such as an asset of an Android package: n_bytes from `offset` on, a
 * multiple of 32; n_bytes 0: up to the end. The descriptor stays the caller's and may be closed after the
 * call. */
EDGELLM_API edgellm_status edgellm_open_descriptor(int descriptor, uint64_t offset, uint64_t n_bytes,
                                                   const edgellm_options* options, edgellm_model** model);

/* Ends a model and all its sequences. NULL does nothing. */
EDGELLM_API void edgellm_close(edgellm_model* model);

/* Number of tokens in the vocabulary, which is the number of logits; 0 for NULL. */
EDGELLM_API size_t edgellm_n_vocab(const edgellm_model* model);
/* Most tokens of a sequence; 0 for NULL. */
EDGELLM_API size_t edgellm_n_context(const edgellm_model* model);
/* 1 if the token ends an answer, 0 if not, or if it does not exist. */
EDGELLM_API int edgellm_is_end(const edgellm_model* model, int32_t token);

/* Tokens of a text. add_special: not 0 adds what the model wants before and after a text. parse_special: not
 * 0 makes control tokens of their texts, which is for trusted text only. Bytes that are not UTF-8 become
 * U+FFFD. */
EDGELLM_API edgellm_status edgellm_tokenize(edgellm_model* model, const char* text, size_t n_bytes,
                                            int add_special, int parse_special, int32_t* tokens,
                                            size_t capacity, size_t* n);

/* Bytes that a token adds to a text, which may be a part of a character; for a control token its text. */
EDGELLM_API edgellm_status edgellm_token_text(const edgellm_model* model, int32_t token, char* text,
                                              size_t capacity, size_t* n);

/* A message of a conversation. role: "system", "user" or "assistant", zero-terminated. */
typedef struct edgellm_message {
    const char* role;
    const char* text;
    size_t n_bytes;
} edgellm_message;

/* Tokens of a conversation as the model's chat template writes it, up to where the assistant's next answer
 * begins. What messages say never becomes a control token. EDGELLM_MODEL if the model has no template, the
 * template is none that can be stored in a file, or it does not allow this order of roles. */
EDGELLM_API edgellm_status edgellm_chat(edgellm_model* model, const edgellm_message* messages,
                                        size_t n_messages, int32_t* tokens, size_t capacity, size_t* n);

/* Opens an empty sequence and gives its number, from 0 on. */
EDGELLM_API edgellm_status edgellm_open_sequence(edgellm_model* model, int32_t* sequence);
/* Ends a sequence. */
EDGELLM_API edgellm_status edgellm_close_sequence(edgellm_model* model, int32_t sequence);
/* Number of tokens that a sequence holds. */
EDGELLM_API edgellm_status edgellm_length(const edgellm_model* model, int32_t sequence, size_t* n);

/* Makes a sequence a begin of `tokens`: drops what it holds from the first difference on, and gives the
 * number of tokens left. A model with recurrent states or windows may have to drop all. */
EDGELLM_API edgellm_status edgellm_keep(edgellm_model* model, int32_t sequence, const int32_t* tokens,
                                        size_t n_tokens, size_t* n_kept);

/* Appends tokens to a sequence. logits: NULL, or the place of n_vocab floats for the token after the last
 * one. If it fails with EDGELLM_CONTEXT_FULL in the middle of a long text, the sequence holds its begin. */
EDGELLM_API edgellm_status edgellm_step(edgellm_model* model, int32_t sequence, const int32_t* tokens,
                                        size_t n_tokens, float* logits);

/* How a token is chosen. All zero: the likeliest one. */
typedef struct edgellm_sampling {
    float temperature;    /* 0: the likeliest token; else divides the logits */
    uint32_t top_k;       /* only so many likeliest tokens; 0: off */
    float top_p;          /* only the likeliest tokens that together have this share; 0: off */
    float min_p;          /* only tokens at least this share as likely as the likeliest; 0: off */
    float repeat_penalty; /* lowers tokens of the history; 0 or 1: off */
    uint64_t seed;        /* of the draws: the same seed, the same tokens */
} edgellm_sampling;

/* Chooses a token from n_vocab logits. sampling: NULL for the likeliest. history: tokens that the penalty
 * applies to. step: number of the draw, so that each has another random number. */
EDGELLM_API edgellm_status edgellm_sample(edgellm_model* model, const float* logits,
                                          const edgellm_sampling* sampling, const int32_t* history,
                                          size_t n_history, uint64_t step, int32_t* token);

/* Receives a piece of an answer: whole characters of UTF-8, n_bytes of them, not zero-terminated, valid
 * during the call. Bytes that are no character are U+FFFD. Not 0 ends the answer. It must not use the model.
 */
typedef int (*edgellm_on_text)(void* user, const char* text, size_t n_bytes);

/* Continues a sequence after `tokens`, which are its whole content: what it holds of them already is not
 * computed again, what differs is dropped. Ends at a token that ends an answer, after max_tokens (0: no
 * limit), where the context is full, or when on_text says so. on_text: NULL, or receives the answer piece by
 * piece, on the calling thread. n: NULL, or the number of tokens of the answer, without the one that ends it.
 */
EDGELLM_API edgellm_status edgellm_generate(edgellm_model* model, int32_t sequence, const int32_t* tokens,
                                            size_t n_tokens, const edgellm_sampling* sampling,
                                            size_t max_tokens, edgellm_on_text on_text, void* user,
                                            size_t* n);

#ifdef __cplusplus
}
#endif

#endif /* EDGELLM_H */

/* SPDX-License-Identifier: MIT */
/* A chat in C: chat MODEL.gguf [MESSAGE...]. Without messages, lines of the standard input are the messages.
 *
 *     edgellm export model.gguf device.gguf
 *     cc -std=c11 -I native/api examples/chat.c -L build/dev -ledgellm -o chat && ./chat device.gguf "Hello"
 */
#include "edgellm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_MESSAGES 64
#define MOST_BYTES 65536

static edgellm_message messages[MOST_MESSAGES];
static size_t n_messages;
static char answer[MOST_BYTES];
static size_t n_answer;

static void stop(const char* what) {
    fprintf(stderr, "%s: %s\n", what, edgellm_error());
    exit(1);
}

static void add_message(const char* role, const char* text, size_t n_bytes) {
    char* copy = malloc(n_bytes + 1);
    if (copy == NULL || n_messages == MOST_MESSAGES) {
        fprintf(stderr, "The conversation is too long.\n");
        exit(1);
    }
    memcpy(copy, text, n_bytes);
    messages[n_messages].role = role;
    messages[n_messages].text = copy;
    messages[n_messages++].n_bytes = n_bytes;
}

/* Shows a piece of the answer at once, and keeps it for the next prompt. */
static int on_text(void* user, const char* text, size_t n_bytes) {
    (void)user;
    fwrite(text, 1, n_bytes, stdout);
    fflush(stdout);
    if (n_bytes > sizeof(answer) - n_answer) return 1;
    memcpy(answer + n_answer, text, n_bytes);
    n_answer += n_bytes;
    return 0;
}

static void ask(edgellm_model* model, int32_t sequence, const char* text) {
    edgellm_sampling likeliest = {0};
    size_t n_prompt = 0;
    int32_t* prompt;

    add_message("user", text, strlen(text));
    /* Asked for with no room, it says how much room it needs. */
    if (edgellm_chat(model, messages, n_messages, NULL, 0, &n_prompt) != EDGELLM_TOO_SMALL) stop("chat");
    prompt = malloc(n_prompt * sizeof(*prompt));
    if (prompt == NULL) exit(1);
    if (edgellm_chat(model, messages, n_messages, prompt, n_prompt, &n_prompt) != EDGELLM_OK) stop("chat");
    n_answer = 0;
    if (edgellm_generate(model, sequence, prompt, n_prompt, &likeliest, 200, on_text, NULL, NULL) != EDGELLM_OK)
        stop("generate");
    putchar('\n');
    add_message("assistant", answer, n_answer);
    free(prompt);
}

int main(int argc, char** argv) {
    edgellm_options options = {0};
    edgellm_model* model;
    int32_t sequence;
    char line[4096];
    int i;

    if (argc < 2) {
        fprintf(stderr, "Usage: chat MODEL.gguf [MESSAGE...]\n");
        return 2;
    }
    if (edgellm_open(argv[1], &options, &model) != EDGELLM_OK) stop("open");
    if (edgellm_open_sequence(model, &sequence) != EDGELLM_OK) stop("sequence");
    for (i = 2; i < argc; ++i) ask(model, sequence, argv[i]);
    while (argc == 2 && printf("> ") && fflush(stdout) == 0 && fgets(line, sizeof(line), stdin) != NULL) {
        line[strcspn(line, "\r\n")] = '\0';
        if (line[0] != '\0') ask(model, sequence, line);
    }
    edgellm_close(model);
    return 0;
}

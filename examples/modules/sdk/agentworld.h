/* What a module in C needs to speak the interface wasm-1: memory, a reader and a writer of deterministic CBOR, and the
 * input and output documents. One header, no library; docs/modules.md says what the documents mean.
 *
 * Whatever is not as promised ends in a trap: the call then fails, the same on every node, and nothing is changed.
 */
#ifndef AGENTWORLD_H
#define AGENTWORLD_H

#include <stdbool.h>
#include <stdint.h>

#define AW_EXPORT(name) __attribute__((export_name(#name), used))
#define aw_trap() __builtin_trap()

/* ---- memory: taken from the end of what the linker placed; given back only between the items of a batch, because an
 * instance lives for one call */

extern uint8_t __heap_base;
static uint32_t aw_top;

static void *aw_take(uint32_t size) {
  if (!aw_top) aw_top = (uint32_t)(uintptr_t)&__heap_base;
  uint32_t place = (aw_top + 7) & ~7u;
  uint32_t end = place + size;
  if (end < size) aw_trap();
  uint32_t have = (uint32_t)__builtin_wasm_memory_size(0) << 16;
  if (end > have) {
    uint32_t pages = (end - have + 0xffff) >> 16;
    if (__builtin_wasm_memory_grow(0, pages) == (uintptr_t)-1) aw_trap();
  }
  aw_top = end;
  return (void *)(uintptr_t)place;
}

AW_EXPORT(alloc) uint32_t alloc(uint32_t size) { return (uint32_t)(uintptr_t)aw_take(size); }

/* The compiler may ask for these two by name. Eight bytes at a time cost an eighth of the fuel. */
typedef uint64_t __attribute__((may_alias, aligned(1))) aw_word;

void *memcpy(void *to, const void *from, unsigned long size) {
  unsigned long i = 0;
  for (; size - i >= 8; i += 8) *(aw_word *)((uint8_t *)to + i) = *(const aw_word *)((const uint8_t *)from + i);
  for (; i < size; i++) ((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
  return to;
}

void *memset(void *to, int value, unsigned long size) {
  for (unsigned long i = 0; i < size; i++) ((uint8_t *)to)[i] = (uint8_t)value;
  return to;
}

/* ---- bytes and text: a place and a length */

typedef struct {
  const uint8_t *data;
  uint32_t size;
} aw_span;

#define AW_TEXT(literal) ((aw_span){(const uint8_t *)(literal), sizeof(literal) - 1})

static int aw_compare(aw_span a, aw_span b) {
  uint32_t both = a.size < b.size ? a.size : b.size;
  for (uint32_t i = 0; i < both; i++)
    if (a.data[i] != b.data[i]) return a.data[i] < b.data[i] ? -1 : 1;
  return a.size == b.size ? 0 : a.size < b.size ? -1 : 1;
}

static bool aw_same(aw_span a, aw_span b) { return aw_compare(a, b) == 0; }

/* ---- reading: definite lengths, no floats, no tags; the host has made sure that the input is deterministic */

typedef struct {
  const uint8_t *at;
  const uint8_t *end;
} aw_reader;

enum { AW_UINT, AW_NEGATIVE, AW_BYTES, AW_STRING, AW_ARRAY, AW_MAP, AW_TAG, AW_SIMPLE };

static aw_reader aw_read(aw_span span) { return (aw_reader){span.data, span.data + span.size}; }

static int aw_kind(const aw_reader *r) {
  if (r->at >= r->end) aw_trap();
  return *r->at >> 5;
}

static uint64_t aw_head(aw_reader *r) {
  if (r->at >= r->end) aw_trap();
  uint8_t low = *r->at++ & 31;
  if (low < 24) return low;
  if (low > 27) aw_trap();
  uint32_t size = 1u << (low - 24);
  if ((uint32_t)(r->end - r->at) < size) aw_trap();
  uint64_t value = 0;
  while (size--) value = value << 8 | *r->at++;
  return value;
}

static uint64_t aw_expect(aw_reader *r, int kind) {
  if (aw_kind(r) != kind) aw_trap();
  return aw_head(r);
}

static int64_t aw_int(aw_reader *r) {
  int kind = aw_kind(r);
  if (kind != AW_UINT && kind != AW_NEGATIVE) aw_trap();
  uint64_t value = aw_head(r);
  if (value > INT64_MAX) aw_trap();
  return kind == AW_UINT ? (int64_t)value : -1 - (int64_t)value;
}

static aw_span aw_string(aw_reader *r, int kind) {
  uint64_t size = aw_expect(r, kind);
  if (size > (uint64_t)(r->end - r->at)) aw_trap();
  aw_span span = {r->at, (uint32_t)size};
  r->at += size;
  return span;
}

static aw_span aw_text(aw_reader *r) { return aw_string(r, AW_STRING); }
static aw_span aw_bytes(aw_reader *r) { return aw_string(r, AW_BYTES); }

static uint32_t aw_count(aw_reader *r, int kind) {
  uint64_t count = aw_expect(r, kind);
  if (count > (uint64_t)(r->end - r->at)) aw_trap(); /* each item has at least one byte */
  return (uint32_t)count;
}

static uint32_t aw_array(aw_reader *r) { return aw_count(r, AW_ARRAY); }
static uint32_t aw_map(aw_reader *r) { return aw_count(r, AW_MAP); }

/* Goes on behind one value, however deep, and returns its encoding. */
static aw_span aw_skip(aw_reader *r) {
  const uint8_t *start = r->at;
  uint64_t items = 1;
  while (items--) {
    int kind = aw_kind(r);
    if (kind == AW_BYTES || kind == AW_STRING) {
      aw_string(r, kind);
    } else if (kind == AW_ARRAY || kind == AW_MAP) {
      items += (uint64_t)aw_count(r, kind) * (kind == AW_MAP ? 2 : 1);
    } else {
      aw_head(r);
    }
  }
  return (aw_span){start, (uint32_t)(r->at - start)};
}

/* Sets `found` to the value of a key of the encoded map; false when it is no map or has no such key. */
static bool aw_find(aw_span map, aw_span key, aw_reader *found) {
  aw_reader r = aw_read(map);
  if (!map.size || aw_kind(&r) != AW_MAP) return false;
  for (uint32_t left = aw_map(&r); left; left--) {
    bool here = aw_same(aw_text(&r), key);
    aw_reader value = r;
    aw_skip(&r);
    if (here) {
      *found = (aw_reader){value.at, r.at};
      return true;
    }
  }
  return false;
}

/* The value of a key when it is an integer from `least` to `most`, which an actor's payload need not hold. */
static bool aw_find_int(aw_span map, aw_span key, int64_t least, int64_t most, int64_t *value) {
  aw_reader r;
  if (!aw_find(map, key, &r)) return false;
  int kind = aw_kind(&r);
  if (kind != AW_UINT && kind != AW_NEGATIVE) return false;
  uint64_t magnitude = aw_head(&r);
  if (magnitude > INT64_MAX) return false;
  *value = kind == AW_UINT ? (int64_t)magnitude : -1 - (int64_t)magnitude;
  return least <= *value && *value <= most;
}

/* ---- writing: shortest forms; the keys of a map are to be written in order: shorter ones first, then by their bytes */

typedef struct {
  uint8_t *data;
  uint32_t size;
  uint32_t room;
} aw_writer;

static uint8_t *aw_room(aw_writer *w, uint32_t size) {
  if (w->room - w->size < size) {
    uint32_t room = w->room * 2 + size + 64;
    uint8_t *data = aw_take(room);
    memcpy(data, w->data, w->size);
    w->data = data;
    w->room = room;
  }
  uint8_t *place = w->data + w->size;
  w->size += size;
  return place;
}

static void aw_put_head(aw_writer *w, int kind, uint64_t value) {
  uint32_t size = value < 24 ? 0 : value < 0x100 ? 1 : value < 0x10000 ? 2 : value < 0x100000000 ? 4 : 8;
  uint8_t *place = aw_room(w, 1 + size);
  uint8_t low = size == 0 ? (uint8_t)value : size == 1 ? 24 : size == 2 ? 25 : size == 4 ? 26 : 27;
  *place++ = (uint8_t)(kind << 5 | low);
  while (size--) *place++ = (uint8_t)(value >> (8 * size));
}

static void aw_put_raw(aw_writer *w, aw_span encoded) {
  memcpy(aw_room(w, encoded.size), encoded.data, encoded.size);
}

static void aw_put_string(aw_writer *w, int kind, aw_span span) {
  aw_put_head(w, kind, span.size);
  aw_put_raw(w, span);
}

static void aw_put_int(aw_writer *w, int64_t value) {
  if (value >= 0)
    aw_put_head(w, AW_UINT, (uint64_t)value);
  else
    aw_put_head(w, AW_NEGATIVE, (uint64_t)(-1 - value));
}

static void aw_put_text(aw_writer *w, aw_span text) { aw_put_string(w, AW_STRING, text); }
static void aw_put_bytes(aw_writer *w, aw_span bytes) { aw_put_string(w, AW_BYTES, bytes); }
static void aw_put_array(aw_writer *w, uint32_t count) { aw_put_head(w, AW_ARRAY, count); }
static void aw_put_map(aw_writer *w, uint32_t count) { aw_put_head(w, AW_MAP, count); }

static aw_span aw_written(const aw_writer *w) { return (aw_span){w->data, w->size}; }

/* ---- the input: what the module is called for, and the state that it returned last */

typedef struct {
  aw_span ctx;     /* the encoded map ctx */
  aw_span id;      /* of the action; empty for an event */
  aw_span actor;   /* of the action; empty for an event */
  aw_span kind;    /* of the action or the event */
  aw_span payload; /* its encoded map */
  aw_span state;   /* empty for a pure module and at the first call */
} aw_input;

/* Fills in what an encoded action or event says. */
static void aw_occasion(aw_input *input, aw_span document, bool action) {
  aw_reader r;
  if (action) {
    if (!aw_find(document, AW_TEXT("action_id"), &r)) aw_trap();
    input->id = aw_text(&r);
    if (!aw_find(document, AW_TEXT("actor_id"), &r)) aw_trap();
    input->actor = aw_text(&r);
  }
  if (!aw_find(document, AW_TEXT("kind"), &r)) aw_trap();
  input->kind = aw_text(&r);
  if (!aw_find(document, AW_TEXT("payload"), &r)) aw_trap();
  input->payload = aw_skip(&r);
}

/* Reads what all inputs have: ctx, and the state of a reducer. */
static aw_input aw_common(aw_span whole) {
  aw_input input = {0};
  aw_reader r;
  if (!aw_find(whole, AW_TEXT("ctx"), &r)) aw_trap();
  input.ctx = aw_skip(&r);
  if (aw_find(whole, AW_TEXT("state"), &r)) input.state = aw_bytes(&r);
  return input;
}

static aw_input aw_input_of(uint32_t at, uint32_t size) {
  aw_span whole = {(const uint8_t *)(uintptr_t)at, size};
  aw_input input = aw_common(whole);
  aw_reader r;
  bool action = aw_find(whole, AW_TEXT("action"), &r);
  if (!action && !aw_find(whole, AW_TEXT("event"), &r)) aw_trap();
  aw_occasion(&input, aw_bytes(&r), action);
  return input;
}

/* ---- the output: a new state, and what is emitted and queued; each may be left out */

typedef struct {
  aw_writer emits;
  aw_writer effects;
  aw_writer state;
  uint32_t emitted;
  uint32_t queued;
  bool changed; /* set it when `state` holds the new state */
} aw_output;

/* Begins an event; its payload, one value, is to be written to what is returned. */
static aw_writer *aw_emit(aw_output *output, aw_span kind) {
  output->emitted++;
  aw_put_map(&output->emits, 2);
  aw_put_text(&output->emits, AW_TEXT("kind"));
  aw_put_text(&output->emits, kind);
  aw_put_text(&output->emits, AW_TEXT("payload"));
  return &output->emits;
}

/* Asks for something outside of the world by a granted capability, with parameters that are encoded already. `ref`, up to
 * 64 characters or nothing, comes back with the receipt; after so many `ticks` (0: never) none counts any more. */
static __attribute__((unused)) void aw_effect_within(
    aw_output *output, aw_span kind, aw_span params, aw_span cap_ref, aw_span ref, int64_t ticks) {
  aw_writer *w = &output->effects;
  output->queued++;
  aw_put_map(w, 3 + (ref.size > 0) + (ticks > 0));
  if (ref.size) {
    aw_put_text(w, AW_TEXT("ref"));
    aw_put_text(w, ref);
  }
  aw_put_text(w, AW_TEXT("kind"));
  aw_put_text(w, kind);
  aw_put_text(w, AW_TEXT("params"));
  aw_put_raw(w, params);
  aw_put_text(w, AW_TEXT("cap_ref"));
  aw_put_text(w, cap_ref);
  if (ticks > 0) {
    aw_put_text(w, AW_TEXT("expires_in"));
    aw_put_int(w, ticks);
  }
}

/* Asks for something outside of the world, waits for its receipt for ever, and needs no name to know it by. */
static __attribute__((unused)) void aw_effect(aw_output *output, aw_span kind, aw_span params, aw_span cap_ref) {
  aw_effect_within(output, kind, params, cap_ref, (aw_span){0}, 0);
}

/* Writes the output document. */
static void aw_put_output(aw_writer *w, const aw_output *output) {
  aw_put_map(w, (output->emitted > 0) + (output->queued > 0) + output->changed);
  if (output->emitted) {
    aw_put_text(w, AW_TEXT("emits"));
    aw_put_array(w, output->emitted);
    aw_put_raw(w, aw_written(&output->emits));
  }
  if (output->queued) {
    aw_put_text(w, AW_TEXT("effects"));
    aw_put_array(w, output->queued);
    aw_put_raw(w, aw_written(&output->effects));
  }
  if (output->changed) {
    aw_put_text(w, AW_TEXT("new_state"));
    aw_put_bytes(w, aw_written(&output->state));
  }
}

/* What an entry returns: the place of the output in the upper half, its length in the lower. */
static uint64_t aw_answer(const uint8_t *data, uint32_t size) { return (uint64_t)(uint32_t)(uintptr_t)data << 32 | size; }

static uint64_t aw_finish(const aw_output *output) {
  aw_writer w = {0};
  aw_put_output(&w, output);
  return aw_answer(w.data, w.size);
}

/* ---- many at once: the same function answers one after the other, each from the state that the one before it left */

enum { AW_HEAD = 5 }; /* room for the length of a list or of bytes */

/* Answers a batch. What an item took is given back before the next one; outputs and state are kept below that. Where they
 * have no room any more the batch ends: who calls asks again for what has no answer. */
static inline __attribute__((always_inline, unused)) uint64_t aw_batch(uint32_t at, uint32_t size,
                                                                       aw_output (*handle)(const aw_input *)) {
  aw_span whole = {(const uint8_t *)(uintptr_t)at, size};
  aw_input input = aw_common(whole);
  aw_reader items;
  bool actions = aw_find(whole, AW_TEXT("actions"), &items);
  if (!actions && !aw_find(whole, AW_TEXT("events"), &items)) aw_trap();
  uint32_t left = aw_array(&items), answered = 0;
  uint32_t room = 2 * size + 4096, state_room = 2 * input.state.size + 1024;
  uint8_t *answers = aw_take(AW_HEAD + room), *state = aw_take(state_room);
  aw_writer out = {answers + AW_HEAD, 0, room};
  uint32_t mark = aw_top;
  for (; left; left--) {
    aw_top = mark;
    aw_occasion(&input, aw_bytes(&items), actions);
    aw_output output = handle(&input);
    aw_writer one = {0};
    aw_put_output(&one, &output);
    if (out.room - out.size < one.size + AW_HEAD) break;
    aw_put_bytes(&out, aw_written(&one));
    answered++;
    if (!output.changed) continue;
    if (output.state.size > state_room) break;
    memcpy(state, output.state.data, output.state.size);
    input.state = (aw_span){state, output.state.size};
  }
  aw_writer head = {answers, 0, AW_HEAD};
  aw_put_array(&head, answered);
  uint8_t *start = out.data - head.size; /* the head goes right before the first answer */
  for (uint32_t i = head.size; i--;) start[i] = answers[i];
  return aw_answer(start, head.size + out.size);
}

/* Exports both entries of a module, `one` and `many`, made of one function. It must keep nothing but its state: an item of
 * a batch is to be answered as if it were alone. */
#define AW_ENTRIES(one, many, handle)                              \
  AW_EXPORT(one) uint64_t one(uint32_t at, uint32_t size) {        \
    aw_input input = aw_input_of(at, size);                        \
    aw_output output = handle(&input);                             \
    return aw_finish(&output);                                     \
  }                                                                \
  AW_EXPORT(many) uint64_t many(uint32_t at, uint32_t size) { return aw_batch(at, size, handle); }

#endif

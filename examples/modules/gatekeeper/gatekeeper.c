/* gatekeeper: a rule. It is asked before an action is taken and answers with one rule.decision:
 *
 * - agent.move costs 1 electricity; a place beyond the border is turned into the nearest one inside of it.
 * - message.send costs 1 data for every 64 bytes begun; a body that is no text or has more than 280 bytes is denied.
 * - object.create costs 5 hardware.
 * - Everything else is allowed and costs nothing.
 */
#include "../sdk/agentworld.h"

#define BORDER 1000
#define LONGEST_TEXT 280

typedef struct {
  aw_span verdict;
  aw_span notes;
  aw_span resource; /* what it costs: empty for nothing */
  int64_t amount;
  aw_span payload; /* of the action to take instead, for the verdict modify */
} decision;

static int64_t inside(int64_t value) { return value < -BORDER ? -BORDER : value > BORDER ? BORDER : value; }

static decision judge_move(aw_span payload) {
  decision d = {AW_TEXT("allow"), AW_TEXT(""), AW_TEXT("electricity"), 1, {0}};
  aw_reader r;
  if (!aw_find(payload, AW_TEXT("to"), &r) || aw_kind(&r) != AW_ARRAY || aw_array(&r) != 2) aw_trap();
  int64_t x = aw_int(&r), y = aw_int(&r);
  if (inside(x) != x || inside(y) != y) {
    aw_writer w = {0};
    aw_put_map(&w, 1);
    aw_put_text(&w, AW_TEXT("to"));
    aw_put_array(&w, 2);
    aw_put_int(&w, inside(x));
    aw_put_int(&w, inside(y));
    d.payload = aw_written(&w);
    d.verdict = AW_TEXT("modify");
    d.notes = AW_TEXT("the world ends at 1000");
  }
  return d;
}

static decision judge_message(aw_span payload) {
  decision d = {AW_TEXT("allow"), AW_TEXT(""), AW_TEXT("data"), 1, {0}};
  aw_reader r;
  if (!aw_find(payload, AW_TEXT("body"), &r) || aw_kind(&r) != AW_STRING) {
    d.verdict = AW_TEXT("deny");
    d.notes = AW_TEXT("a message must be text");
    return d;
  }
  aw_span body = aw_text(&r);
  if (body.size > LONGEST_TEXT) {
    d.verdict = AW_TEXT("deny");
    d.notes = AW_TEXT("a message may have 280 bytes");
  }
  d.amount = (body.size + 63) / 64;
  return d;
}

static decision judge(const aw_input *input) {
  if (aw_same(input->kind, AW_TEXT("agent.move"))) return judge_move(input->payload);
  if (aw_same(input->kind, AW_TEXT("message.send"))) return judge_message(input->payload);
  decision d = {AW_TEXT("allow"), AW_TEXT(""), AW_TEXT(""), 0, {0}};
  if (aw_same(input->kind, AW_TEXT("object.create"))) {
    d.resource = AW_TEXT("hardware");
    d.amount = 5;
  }
  return d;
}

static aw_output decide(const aw_input *input) {
  aw_output output = {0};
  decision d = judge(input);
  aw_writer *w = aw_emit(&output, AW_TEXT("rule.decision"));
  aw_put_map(w, d.payload.size ? 5 : 4);
  aw_put_text(w, AW_TEXT("cost"));
  aw_put_map(w, d.amount ? 1 : 0);
  if (d.amount) {
    aw_put_text(w, d.resource);
    aw_put_int(w, d.amount);
  }
  aw_put_text(w, AW_TEXT("notes"));
  aw_put_text(w, d.notes);
  aw_put_text(w, AW_TEXT("verdict"));
  aw_put_text(w, d.verdict);
  aw_put_text(w, AW_TEXT("action_id"));
  aw_put_text(w, input->id);
  if (d.payload.size) {
    aw_put_text(w, AW_TEXT("override_action"));
    aw_put_map(w, 2);
    aw_put_text(w, AW_TEXT("kind"));
    aw_put_text(w, input->kind);
    aw_put_text(w, AW_TEXT("payload"));
    aw_put_raw(w, d.payload);
  }
  return output;
}

AW_ENTRIES(call, call_batch, decide)

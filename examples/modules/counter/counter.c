/* counter: a reducer. `counter.add {"by": n}` adds to one total that the whole world shares.
 *
 * State: [total, changes]. Emits counter.changed {by, actor, total} or counter.refused {actor, reason}.
 */
#include "../sdk/agentworld.h"

#define MOST 1000000

static void refuse(aw_output *output, aw_span actor, aw_span reason) {
  aw_writer *w = aw_emit(output, AW_TEXT("counter.refused"));
  aw_put_map(w, 2);
  aw_put_text(w, AW_TEXT("actor"));
  aw_put_text(w, actor);
  aw_put_text(w, AW_TEXT("reason"));
  aw_put_text(w, reason);
}

static aw_output count(const aw_input *input) {
  aw_output output = {0};
  int64_t total = 0, changes = 0, by = 0;
  if (input->state.size) {
    aw_reader r = aw_read(input->state);
    if (aw_array(&r) != 2) aw_trap();
    total = aw_int(&r);
    changes = aw_int(&r);
  }
  if (!aw_same(input->kind, AW_TEXT("counter.add")))
    refuse(&output, input->actor, AW_TEXT("no such action"));
  else if (!aw_find_int(input->payload, AW_TEXT("by"), -MOST, MOST, &by))
    refuse(&output, input->actor, AW_TEXT("by must be an integer within 1000000 of 0"));
  else if (__builtin_add_overflow(total, by, &total))
    refuse(&output, input->actor, AW_TEXT("the total would be too large"));
  else {
    output.changed = true;
    aw_put_array(&output.state, 2);
    aw_put_int(&output.state, total);
    aw_put_int(&output.state, changes + 1);
    aw_writer *w = aw_emit(&output, AW_TEXT("counter.changed"));
    aw_put_map(w, 3);
    aw_put_text(w, AW_TEXT("by"));
    aw_put_int(w, by);
    aw_put_text(w, AW_TEXT("actor"));
    aw_put_text(w, input->actor);
    aw_put_text(w, AW_TEXT("total"));
    aw_put_int(w, total);
  }
  return output;
}

AW_ENTRIES(reduce, reduce_batch, count)

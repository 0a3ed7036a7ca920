/* market: an economy of agents. Whoever joins gets coins and goods, and trades one for the other by orders.
 *
 * market.join {}                     an account with START_COINS and START_GOODS
 * market.sell {"amount", "price"}    sells up to `amount` for at least `price` each
 * market.buy {"amount", "price"}     buys up to `amount` for at most `price` each
 * market.cancel {"order"}            takes an order back
 *
 * An order is matched with the best ones of the other side, the older first at one price, each at the price of the one
 * that was there. What is left waits. What an order may need is set aside when it is placed, so that every trade can be
 * settled, and no coin and no good is ever made or lost by trading.
 *
 * State: [next order, [[agent, coins, goods], ...], [[order, agent, sells, price, amount], ...]]; all integers.
 * Emits market.joined, market.ordered, market.traded, market.cancelled, market.refused.
 */
#include "../sdk/agentworld.h"

#define START_COINS 1000
#define START_GOODS 100
#define MOST 1000000
#define MAX_ACCOUNTS 256
#define MAX_ORDERS 256
#define MAX_TRADES 32 /* of one order; each is an event */

typedef struct {
  aw_span agent;
  int64_t coins, goods;
} account;

typedef struct {
  int64_t number;
  aw_span agent;
  bool sells;
  int64_t price, amount;
} order;

static account accounts[MAX_ACCOUNTS];
static order orders[MAX_ORDERS]; /* by number */
static uint32_t account_count, order_count;
static int64_t next_order = 1;
static aw_output output;

static void load(aw_span state) {
  if (!state.size) return;
  aw_reader r = aw_read(state);
  if (aw_array(&r) != 3) aw_trap();
  next_order = aw_int(&r);
  account_count = aw_array(&r);
  if (account_count > MAX_ACCOUNTS) aw_trap();
  for (uint32_t i = 0; i < account_count; i++) {
    if (aw_array(&r) != 3) aw_trap();
    accounts[i].agent = aw_text(&r);
    accounts[i].coins = aw_int(&r);
    accounts[i].goods = aw_int(&r);
  }
  order_count = aw_array(&r);
  if (order_count > MAX_ORDERS) aw_trap();
  for (uint32_t i = 0; i < order_count; i++) {
    if (aw_array(&r) != 5) aw_trap();
    orders[i].number = aw_int(&r);
    orders[i].agent = aw_text(&r);
    orders[i].sells = aw_int(&r) == 1;
    orders[i].price = aw_int(&r);
    orders[i].amount = aw_int(&r);
  }
}

static void save(void) {
  aw_writer *w = &output.state;
  output.changed = true;
  aw_put_array(w, 3);
  aw_put_int(w, next_order);
  aw_put_array(w, account_count);
  for (uint32_t i = 0; i < account_count; i++) {
    aw_put_array(w, 3);
    aw_put_text(w, accounts[i].agent);
    aw_put_int(w, accounts[i].coins);
    aw_put_int(w, accounts[i].goods);
  }
  aw_put_array(w, order_count);
  for (uint32_t i = 0; i < order_count; i++) {
    aw_put_array(w, 5);
    aw_put_int(w, orders[i].number);
    aw_put_text(w, orders[i].agent);
    aw_put_int(w, orders[i].sells);
    aw_put_int(w, orders[i].price);
    aw_put_int(w, orders[i].amount);
  }
}

static account *account_of(aw_span agent) {
  for (uint32_t i = 0; i < account_count; i++)
    if (aw_same(accounts[i].agent, agent)) return &accounts[i];
  return 0;
}

static void remove_order(uint32_t index) {
  order_count--;
  for (uint32_t i = index; i < order_count; i++) orders[i] = orders[i + 1];
}

static void refuse(aw_span agent, aw_span reason) {
  aw_writer *w = aw_emit(&output, AW_TEXT("market.refused"));
  aw_put_map(w, 2);
  aw_put_text(w, AW_TEXT("agent"));
  aw_put_text(w, agent);
  aw_put_text(w, AW_TEXT("reason"));
  aw_put_text(w, reason);
}

static void join(aw_span agent) {
  if (account_of(agent)) return refuse(agent, AW_TEXT("has joined before"));
  if (account_count == MAX_ACCOUNTS) return refuse(agent, AW_TEXT("the market has no room for more agents"));
  accounts[account_count++] = (account){agent, START_COINS, START_GOODS};
  aw_writer *w = aw_emit(&output, AW_TEXT("market.joined"));
  aw_put_map(w, 3);
  aw_put_text(w, AW_TEXT("agent"));
  aw_put_text(w, agent);
  aw_put_text(w, AW_TEXT("coins"));
  aw_put_int(w, START_COINS);
  aw_put_text(w, AW_TEXT("goods"));
  aw_put_int(w, START_GOODS);
  save();
}

/* The best order that this one can be traded with, or -1. Nobody trades with themselves. */
static int32_t best_match(const order *mine) {
  int32_t best = -1;
  for (uint32_t i = 0; i < order_count; i++) {
    const order *other = &orders[i];
    if (other->sells == mine->sells || aw_same(other->agent, mine->agent)) continue;
    if (mine->sells ? other->price < mine->price : other->price > mine->price) continue;
    if (best < 0 || (mine->sells ? other->price > orders[best].price : other->price < orders[best].price)) best = (int32_t)i;
  }
  return best;
}

static void trade(order *mine, account *me, uint32_t index) {
  order *other = &orders[index];
  int64_t amount = mine->amount < other->amount ? mine->amount : other->amount;
  int64_t coins = amount * other->price;
  account *them = account_of(other->agent);
  if (!them) aw_trap();
  if (mine->sells) {
    me->coins += coins;
    them->goods += amount;
  } else {
    me->goods += amount;
    me->coins += amount * mine->price - coins; /* what was set aside beyond the price that is paid */
    them->coins += coins;
  }
  aw_writer *w = aw_emit(&output, AW_TEXT("market.traded"));
  aw_put_map(w, 5);
  aw_put_text(w, AW_TEXT("buyer"));
  aw_put_text(w, mine->sells ? them->agent : me->agent);
  aw_put_text(w, AW_TEXT("order"));
  aw_put_int(w, other->number);
  aw_put_text(w, AW_TEXT("price"));
  aw_put_int(w, other->price);
  aw_put_text(w, AW_TEXT("amount"));
  aw_put_int(w, amount);
  aw_put_text(w, AW_TEXT("seller"));
  aw_put_text(w, mine->sells ? me->agent : them->agent);
  mine->amount -= amount;
  other->amount -= amount;
  if (!other->amount) remove_order(index);
}

static void give_back(account *owner, const order *what) {
  if (what->sells)
    owner->goods += what->amount;
  else
    owner->coins += what->amount * what->price;
}

static void place(aw_span agent, aw_span payload, bool sells) {
  account *me = account_of(agent);
  order mine = {next_order, agent, sells, 0, 0};
  if (!me) return refuse(agent, AW_TEXT("has not joined"));
  if (!aw_find_int(payload, AW_TEXT("amount"), 1, MOST, &mine.amount) ||
      !aw_find_int(payload, AW_TEXT("price"), 1, MOST, &mine.price))
    return refuse(agent, AW_TEXT("amount and price must be integers from 1 to 1000000"));
  if (order_count == MAX_ORDERS) return refuse(agent, AW_TEXT("the market has no room for more orders"));
  if (sells ? me->goods < mine.amount : me->coins < mine.amount * mine.price)
    return refuse(agent, sells ? AW_TEXT("has not so many goods") : AW_TEXT("has not so many coins"));
  if (sells)
    me->goods -= mine.amount;
  else
    me->coins -= mine.amount * mine.price;
  next_order++;
  int32_t match;
  for (int trades = 0; mine.amount && trades < MAX_TRADES && (match = best_match(&mine)) >= 0; trades++)
    trade(&mine, me, (uint32_t)match);
  aw_writer *w = aw_emit(&output, AW_TEXT("market.ordered"));
  bool waits = mine.amount && best_match(&mine) < 0;
  aw_put_map(w, 3);
  aw_put_text(w, AW_TEXT("agent"));
  aw_put_text(w, agent);
  aw_put_text(w, AW_TEXT("order"));
  aw_put_int(w, mine.number);
  aw_put_text(w, AW_TEXT("waits"));
  aw_put_int(w, waits ? mine.amount : 0);
  if (waits)
    orders[order_count++] = mine;
  else
    give_back(me, &mine);
  save();
}

static void cancel(aw_span agent, aw_span payload) {
  int64_t number;
  if (!aw_find_int(payload, AW_TEXT("order"), 1, INT64_MAX, &number))
    return refuse(agent, AW_TEXT("order must be the number of an order"));
  for (uint32_t i = 0; i < order_count; i++) {
    if (orders[i].number != number || !aw_same(orders[i].agent, agent)) continue;
    give_back(account_of(agent), &orders[i]);
    remove_order(i);
    aw_writer *w = aw_emit(&output, AW_TEXT("market.cancelled"));
    aw_put_map(w, 2);
    aw_put_text(w, AW_TEXT("agent"));
    aw_put_text(w, agent);
    aw_put_text(w, AW_TEXT("order"));
    aw_put_int(w, number);
    return save();
  }
  refuse(agent, AW_TEXT("has no such order"));
}

AW_EXPORT(reduce) uint64_t reduce(uint32_t at, uint32_t size) {
  aw_input input = aw_input_of(at, size);
  load(input.state);
  if (aw_same(input.kind, AW_TEXT("market.join")))
    join(input.actor);
  else if (aw_same(input.kind, AW_TEXT("market.sell")))
    place(input.actor, input.payload, true);
  else if (aw_same(input.kind, AW_TEXT("market.buy")))
    place(input.actor, input.payload, false);
  else if (aw_same(input.kind, AW_TEXT("market.cancel")))
    cancel(input.actor, input.payload);
  else
    refuse(input.actor, AW_TEXT("no such action"));
  return aw_finish(&output);
}

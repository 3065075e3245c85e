"""Limits, concurrency and budgets among ingresses and the accounts process, whatever is late, repeated, or dies.

The two real cores speak to each other over a wire that delays, repeats and reorders; ingresses and the accounts process
die at any moment, the latter between any two messages. Nothing is ever given out twice, and in the end nothing is lost.
"""

from __future__ import annotations

import copy
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from accounts.core.book import Book, Holder
from bus.messages.accounts import Allowance, Ask, Granted, Settlement
from ingress.gate.leases import Actual, Bucket, Leases

LIMIT = Allowance(1, "key", "k", "total_tokens", 100, 10)
SLOTS = Allowance(2, "key", "k", "concurrency", 3)
MONEY = Allowance(3, "key", "k", "money", 1_000, 0, "total")
BEGIN_NS = 1_000_000_000_000
INGRESSES = 3


class Ingress:
    """One incarnation: leases, and what it has to tell of money."""

    def __init__(self, index: int, epoch: int) -> None:
        self.holder = Holder(f"ingress@{index}", epoch)
        self.leases = Leases(0.1)
        self.buckets = [self.leases.bucket(each) for each in (LIMIT, SLOTS, MONEY)]
        self.under_way: dict[int, tuple[int, int]] = {}  # tokens and money reserved, by request
        self.unsettled: dict[int, Settlement] = {}


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_ns, self.epoch, self.request = BEGIN_NS, INGRESSES, 0
        self.book = Book()
        for each in (LIMIT, SLOTS, MONEY):
            self.book.put(each, self.now_ns)
        self.charged: set[int] = set()
        self.ingresses = [Ingress(index, index) for index in range(INGRESSES)]
        self.dead: list[Ingress] = []  # not buried yet: the accounts process does not know
        self.orphans: dict[int, Settlement] = {}  # what dead ingresses had to tell, in their spools
        self.questions: list[tuple[Holder, Ask]] = []
        self.answers: list[tuple[Holder, Granted]] = []
        self.settlements: list[Settlement] = []
        self.tokens = self.tokens_over = self.cost = self.cost_over = 0

    # --- time and the wire -----------------------------------------------------------------------------------------

    @rule(ms=st.integers(1, 3000))
    def time_passes(self, ms: int) -> None:
        self.now_ns += ms * 1_000_000
        for ingress in self.ingresses:
            ingress.leases.idle(self.now_ns)
        self._answered(self.book.turn(self.now_ns, 0))

    @rule(index=st.integers(0, INGRESSES - 1))
    def an_ingress_speaks(self, index: int) -> None:
        ingress = self.ingresses[index]
        if lines := ingress.leases.lines(self.now_ns):
            self.questions.append((ingress.holder, Ask(1, lines)))

    @precondition(lambda self: self.questions)
    @rule(data=st.data(), again=st.booleans())
    def a_question_arrives(self, data: st.DataObject, again: bool) -> None:
        holder, ask = self._pick(data, self.questions, again)
        if holder in {each.holder for each in (*self.ingresses, *self.dead)}:
            answer = self.book.ask(holder, ask, self.now_ns, 0)
            self._answered([(holder, answer)] if answer is not None else [])
            self._answered(self.book.turn(self.now_ns, 0))

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), again=st.booleans())
    def an_answer_arrives(self, data: st.DataObject, again: bool) -> None:
        holder, answer = self._pick(data, self.answers, again)
        for ingress in self.ingresses:
            if ingress.holder == holder:
                ingress.leases.granted(answer.lines, self.now_ns)

    @rule(index=st.integers(0, INGRESSES - 1))
    def settlements_are_sent(self, index: int) -> None:
        self.settlements += self.ingresses[index].unsettled.values()

    @precondition(lambda self: self.settlements)
    @rule(data=st.data(), again=st.booleans())
    def a_settlement_arrives(self, data: st.DataObject, again: bool) -> None:
        self._settle(self._pick(data, self.settlements, again))

    # --- requests --------------------------------------------------------------------------------------------------

    @rule(
        index=st.integers(0, INGRESSES - 1),
        tokens=st.integers(1, 60),
        money=st.integers(1, 400),
        prompt=st.sampled_from([True, True, False]),
    )
    def a_request_comes(self, index: int, tokens: int, money: int, prompt: bool) -> None:
        """`prompt`: what it needs is asked for and answered before anything else happens."""
        ingress = self.ingresses[index]
        wants = tuple((bucket, n) for bucket, n in zip(ingress.buckets, (tokens, 1, money), strict=True))
        if short := ingress.leases.short(wants):
            for bucket, amount in short:
                bucket.waiting += amount
                bucket.used_ns = self.now_ns
                ingress.leases.touched.add(bucket)
            ask = Ask(1, ingress.leases.lines(self.now_ns))
            self.questions.append((ingress.holder, ask))
            for bucket, amount in short:
                bucket.waiting -= amount
            if prompt and (answer := self.book.ask(ingress.holder, ask, self.now_ns, 0)) is not None:
                ingress.leases.granted(answer.lines, self.now_ns)
                self.answers.append((ingress.holder, answer))
            if ingress.leases.short(wants):
                return
        self.request += 1
        ingress.leases.take([(self.request, wants)], self.now_ns)
        ingress.under_way[self.request] = (tokens, money)

    @precondition(lambda self: any(ingress.under_way for ingress in self.ingresses))
    @rule(data=st.data(), tokens=st.integers(0, 90), money=st.integers(0, 600), times=st.integers(1, 2))
    def a_request_ends(self, data: st.DataObject, tokens: int, money: int, times: int) -> None:
        ingress = data.draw(st.sampled_from([each for each in self.ingresses if each.under_way]))
        request = data.draw(st.sampled_from(sorted(ingress.under_way)))
        assert [ingress.leases.settle(request, Actual(0, tokens, money)) for _ in range(times)] == [
            turn == 0 for turn in range(times)
        ]
        reserved = ingress.under_way.pop(request)
        self._used(tokens, money, reserved)
        ingress.unsettled[request] = Settlement(request, "k", "m", money, 0)

    @precondition(lambda self: any(ingress.under_way for ingress in self.ingresses))
    @rule(data=st.data())
    def a_request_is_refused(self, data: st.DataObject) -> None:
        ingress = data.draw(st.sampled_from([each for each in self.ingresses if each.under_way]))
        request = data.draw(st.sampled_from(sorted(ingress.under_way)))
        assert ingress.leases.release(request)
        assert not ingress.leases.release(request)
        del ingress.under_way[request]

    # --- deaths ----------------------------------------------------------------------------------------------------

    @rule(index=st.integers(0, INGRESSES - 1), tokens=st.integers(0, 90), money=st.integers(0, 600))
    def an_ingress_dies(self, index: int, tokens: int, money: int) -> None:
        """Its spool is taken by others, and so are its streams, which settle there."""
        dead, self.epoch = self.ingresses[index], self.epoch + 1
        self.ingresses[index] = heir = Ingress(index, self.epoch)
        self.dead.append(dead)
        heir.unsettled |= dead.unsettled
        for request, reserved in dead.under_way.items():
            assert not heir.leases.settle(request, Actual(0, tokens, money))
            self._used(tokens, money, reserved)
            heir.unsettled[request] = Settlement(request, "k", "m", money, 0)

    @precondition(lambda self: self.dead)
    @rule()
    def its_death_is_noticed(self) -> None:
        self.book.forget(self.dead.pop(0).holder, self.now_ns)

    @rule()
    def the_accounts_process_dies(self) -> None:
        """What it had decided is in its file; whoever waited for it asks again."""
        before, self.book = self.book, Book()
        self.book.accounts = copy.deepcopy(before.accounts)

    # --- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def no_more_is_used_than_flows_in(self) -> None:
        flowed = (self.now_ns - BEGIN_NS) * LIMIT.amount // (LIMIT.window_s * 1_000_000_000)
        assert self.tokens <= LIMIT.amount + flowed + self.tokens_over

    @invariant()
    def leases_add_nothing(self) -> None:
        account = self.book.accounts[1]
        assert account.level.tokens + account.held <= LIMIT.amount

    @invariant()
    def balances_are_right(self) -> None:
        for ingress in self.ingresses:
            for each in ingress.buckets:
                assert each.balance == each.granted - each.used - each.returned - each.reserved

    @invariant()
    def nobody_has_more_than_was_given(self) -> None:
        for ingress in self.ingresses:
            for number, bucket in enumerate(ingress.buckets, start=1):
                hold = self.book.accounts[number].holds.get(ingress.holder)
                assert bucket.granted <= (hold.granted if hold is not None else 0)

    @invariant()
    def no_more_answers_at_once(self) -> None:
        living = sum(len(each.under_way) for each in (*self.ingresses,))
        assert living <= SLOTS.amount

    @invariant()
    def no_more_is_spent(self) -> None:
        """All of this takes less time than money is in doubt, so not even what the dead held is spent twice."""
        if self.now_ns - BEGIN_NS < 100_000_000_000:
            assert self.cost <= MONEY.amount + self.cost_over

    def teardown(self) -> None:
        """Everything ends and everything is told: nothing is held any more, and what was spent is what it cost."""
        for ingress in self.ingresses:
            for request, reserved in tuple(ingress.under_way.items()):
                ingress.leases.settle(request, Actual(0, *reserved))
                self.cost += reserved[1]
                ingress.unsettled[request] = Settlement(request, "k", "m", reserved[1], 0)
        for dead in self.dead:
            self.book.forget(dead.holder, self.now_ns)
        for ingress in self.ingresses:
            for settlement in tuple(ingress.unsettled.values()):
                self._settle(settlement)
        for _ in range(4):
            self.now_ns += 5_000_000_000
            self._answered(self.book.turn(self.now_ns, 0))
            for holder, answer in self.answers:
                for ingress in self.ingresses:
                    if ingress.holder == holder:
                        ingress.leases.granted(answer.lines, self.now_ns)
            self.answers.clear()
            for ingress in self.ingresses:
                lines = ingress.leases.all_lines(self.now_ns)
                if lines and (answer := self.book.ask(ingress.holder, Ask(1, lines), self.now_ns, 0)) is not None:
                    ingress.leases.granted(answer.lines, self.now_ns)
        for number in (1, 2, 3):
            assert self.book.accounts[number].held == 0, number
        assert self.book.accounts[3].spent_now(0) == self.cost
        assert self.book.accounts[2].free(self.now_ns, 0) == SLOTS.amount

    # --- help ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _pick(data: st.DataObject, wire: list[Any], again: bool) -> Any:
        at = data.draw(st.integers(0, len(wire) - 1))
        return wire[at] if again else wire.pop(at)

    def _answered(self, answers: list[tuple[Holder, Granted]]) -> None:
        self.answers += answers
        for holder, numbers in self.book.recalls().items():
            for ingress in self.ingresses:
                if ingress.holder == holder:
                    ingress.leases.recall(numbers, self.now_ns)

    def _used(self, tokens: int, money: int, reserved: tuple[int, int]) -> None:
        self.tokens, self.cost = self.tokens + tokens, self.cost + money
        self.tokens_over += max(0, tokens - reserved[0])
        self.cost_over += max(0, money - reserved[1])

    def _settle(self, settlement: Settlement) -> None:
        if settlement.request not in self.charged:
            self.charged.add(settlement.request)
            self.book.spend([settlement], {"k": (3,)})
        for ingress in self.ingresses:  # the answer, to whoever told
            if ingress.unsettled.pop(settlement.request, None) is not None:
                ingress.leases.written(settlement.request)


TestLeases = Machine.TestCase
TestLeases.settings = settings(max_examples=100, stateful_step_count=80)


def test_a_bucket_is_what_it_says() -> None:
    bucket = Bucket(LIMIT)
    assert (bucket.balance, bucket.remaining(0)) == (0, 0)

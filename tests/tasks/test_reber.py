"""The embedded Reber grammar: every string is held against an automaton written down a second time, as a regex."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.tasks._continual_reber import make_batch as make_streams
from jaxlstm.tasks._continual_reber import measure as measure_streams
from jaxlstm.tasks._generated import Sequences, one_hot
from jaxlstm.tasks._grammar import ALPHABET
from jaxlstm.tasks._reber import Following, make_batch, measure, predicted

# B, then T S* X (S ends it, X leads over to the lower half) or P; the lower half is T* V, then P X round it again.
REBER = "B(?:TS*X(?:S|XT*V(?:PXT*V)*(?:V|PS))|PT*V(?:PXT*V)*(?:V|PS))E"
EMBEDDED = f"(?:BT{REBER}TE|BP{REBER}PE)"
COUNT = 2000


@pytest.fixture(scope="module")
def drawn():
    return jax.tree.map(np.asarray, make_batch(jax.random.key(0), COUNT, 50))


@pytest.fixture(scope="module")
def streams():
    return jax.tree.map(np.asarray, make_streams(jax.random.key(0), 100, 300))


def text(symbols):
    return "".join(ALPHABET[symbol] for symbol in symbols)


def strings(sequences):
    """Each sequence's string: its first symbol, and all that it has to predict."""
    xs, (symbols, _), lengths = sequences
    for n, length in enumerate(lengths):
        shown, following = xs[:, n].argmax(-1)[:length], symbols[:length, n]
        np.testing.assert_array_equal(shown[1:], following[:-1])
        yield text([shown[0], *following])


def continuations(begun):
    """All that can follow a beginning: the symbols after which it can still be completed to a string."""
    tails = ["", "E", "TE", "PE", "ETE", "EPE", "SETE", "SEPE", "VETE", "VEPE", "VVETE", "VVEPE", "XSETE", "XSEPE"]
    tails += [inner + tail for inner in ("BPVVE", "TXSE") for tail in ("TE", "PE")]
    tails += [outer + "BPVVE" + outer + "E" for outer in "TP"]
    return {symbol for symbol in ALPHABET if any(re.fullmatch(EMBEDDED, begun + symbol + tail) for tail in tails)}


def test_every_string_is_legal_and_is_masked_where_it_ends(drawn):
    for string in strings(drawn):
        assert re.fullmatch(EMBEDDED, string), string
    assert (drawn.xs.sum(-1) == (np.arange(49)[:, None] < drawn.lengths)).all()


def test_the_strings_are_many_and_both_branches_are_taken_alike(drawn):
    found = list(strings(drawn))
    assert len(set(found)) > 200
    assert (min(map(len, found)), max(map(len, found)) > 25) == (9, True)
    np.testing.assert_allclose(np.mean([string[1] == "T" for string in found]), 0.5, atol=0.04)
    np.testing.assert_allclose(np.mean([string[3] == "T" for string in found]), 0.5, atol=0.04)
    np.testing.assert_allclose(np.mean([len(string) for string in found]), 12, atol=0.4)  # solved by hand: 8 + 4


def test_legal_is_what_the_grammar_allows_after_each_beginning(drawn):
    for n, string in enumerate(list(strings(drawn))[:60]):
        for step in range(len(string) - 1):
            allowed = {ALPHABET[k] for k in np.flatnonzero(drawn.targets.legal[step, n])}
            assert allowed == continuations(string[: step + 1]), string[: step + 1]


@pytest.mark.parametrize("length", [9, 10, 13])
def test_strings_keep_within_the_length_and_are_still_legal(length):
    found = list(strings(jax.tree.map(np.asarray, make_batch(jax.random.key(1), 200, length))))
    assert all(re.fullmatch(EMBEDDED, string) for string in found)
    assert max(map(len, found)) <= length
    assert len(set(found)) >= 4


def test_streams_are_strings_in_a_row(streams):
    xs, (symbols, legal), lengths = streams
    assert lengths is None
    for n in range(100):
        stream = text([xs[0, n].argmax(), *symbols[:, n]])
        whole = re.match(f"{EMBEDDED}*", stream)[0]
        assert len(stream) - len(whole) < 50
        ends = [match.end() for match in re.finditer(EMBEDDED, whole)]
        assert len(ends) > 10
        for end in (end for end in ends if end <= 300):
            assert legal[end - 1, n].tolist() == [True] + [False] * 6  # what follows an E at the end is B
    assert legal[np.arange(300)[:, None], np.arange(100), symbols].all()


def test_predicted_asks_that_the_legal_ones_lead():
    legal = jnp.array([[[True, True, False]]])
    for logits, expected in [([2, 1, 0], True), ([2, 0, 1], False), ([2, 1, 1], False), ([-1, -2, -3], True)]:
        assert bool(predicted(jnp.array([[logits]], jnp.float32), legal)[0, 0]) == expected


def test_padding_is_not_asked_for(drawn):
    batch = Sequences(*jax.tree.map(lambda a: jnp.asarray(a[:, :50]), drawn[:2]), jnp.asarray(drawn.lengths[:50]))
    perfect = batch.targets.legal.astype(jnp.float32)
    perfect = jnp.where(batch.mask[..., None], perfect, -perfect)
    assert measure(perfect, batch)[1]["right"] == 1
    wrong = perfect.at[0, 0].set(-perfect[0, 0])
    np.testing.assert_allclose(measure(wrong, batch)[1]["right"], 0.98)


def test_a_stream_counts_up_to_its_first_mistake(streams):
    batch = jax.tree.map(jnp.asarray, streams)
    logits = one_hot(batch.targets.symbols, 7) + batch.targets.legal.astype(jnp.float32)
    assert measure_streams(logits, batch)[1] == {"right": 1, "unbroken": 1}
    broken = logits.at[75].multiply(-1)
    assert measure_streams(broken, batch)[1] == {"right": 0, "unbroken": 0.25}


def test_following_is_named():
    assert Following._fields == ("symbols", "legal")

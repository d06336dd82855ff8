"""Text as it is streamed: whole characters, nothing of a stop string, and in the end all of it."""

from itertools import pairwise
from pathlib import Path

import pytest
from endpoint import write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_runtime.errors import CheckpointError
from moe_runtime.frontend.chat import ChatError, load_chat_template
from moe_runtime.frontend.text import AnswerText, StopStrings, TextStream
from moe_runtime.frontend.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer
    return tokenizer


@given(text=st.text(), prompt=st.text())
def test_pieces_are_whole_characters_and_make_the_text(tokenizer: Tokenizer, text: str, prompt: str) -> None:
    stream = TextStream(tokenizer, tokenizer.encode(prompt))
    pieces = [stream.push(token) for token in tokenizer.encode_rendered(text)]
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text
    assert "".join(pieces) + stream.flush() == text


@given(tokens=st.lists(st.integers(0, 257), max_size=80))
def test_any_tokens_read_the_same_piece_by_piece(tokenizer: Tokenizer, tokens: list[int]) -> None:
    stream = TextStream(tokenizer, ())
    pieces = [stream.push(token) for token in tokens]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(tokens)


def test_bytes_that_are_no_text_do_not_hold_the_rest_back_for_ever(tokenizer: Tokenizer) -> None:
    (half,) = {tokenizer.encode_rendered("é")[0]}
    stream = TextStream(tokenizer, ())
    assert "".join(stream.push(half) for _ in range(50)) == "\ufffd" * 47


words = st.text("ab", min_size=1, max_size=4)


@given(text=st.text("abc", max_size=30), cuts=st.lists(st.integers(0, 30)), stops=st.lists(words, max_size=3))
def test_text_ends_before_the_first_stop_string_however_it_is_cut(text: str, cuts: list[int], stops: list[str]) -> None:
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in pairwise(edges)]
    filtered = StopStrings(stops)
    shown = "".join(filtered.push(piece) for piece in pieces) + filtered.flush()
    assert filtered.found == any(stop in text for stop in stops)
    assert not any(stop in shown for stop in stops)
    assert text.startswith(shown)
    if not filtered.found:
        assert shown == text


@settings(max_examples=50)
@given(text=st.text("ab€", max_size=30), stop=words)
def test_a_stop_string_across_tokens_is_never_shown(tokenizer: Tokenizer, text: str, stop: str) -> None:
    answer = AnswerText(tokenizer, (), [stop])
    shown = "".join(answer.push(token) for token in tokenizer.encode_rendered(text)) + answer.flush()
    assert shown == text.partition(stop)[0]
    assert answer.stopped == (stop in text)


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None
    assert load_tokenizer(None) is None


@pytest.mark.parametrize("template", ["{% if %}", "{{ x", "{% for m in %}{% endfor %}"])
def test_a_template_that_does_not_compile_is_told(tmp_path: Path, template: str) -> None:
    write_tokenizer(tmp_path, template)
    with pytest.raises(CheckpointError, match="does not compile"):
        load_chat_template(tmp_path)


def test_a_template_is_of_its_own_file_first(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "from the config")
    (tmp_path / "chat_template.jinja").write_text("from the file {{ messages[0].content | tojson }}")
    template = load_chat_template(tmp_path)
    assert template
    assert template.render([{"role": "user", "content": 'ü"'}]) == 'from the file "ü\\""'


@pytest.mark.parametrize(
    "template",
    ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ raise_exception('no') }}", "{{ messages[9].x.y }}"],
)
def test_a_template_can_only_read_the_messages(tmp_path: Path, template: str) -> None:
    write_tokenizer(tmp_path, template)
    loaded = load_chat_template(tmp_path)
    assert loaded
    with pytest.raises(ChatError, match="refuses"):
        loaded.render([{"role": "user", "content": "x"}])


def test_a_template_may_mark_the_answer(tmp_path: Path) -> None:
    write_tokenizer(
        tmp_path, "{% for m in messages %}{% generation %}[{{ m.content }}]{% endgeneration %}{% break %}{% endfor %}"
    )
    loaded = load_chat_template(tmp_path)
    assert loaded
    assert loaded.render([{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]) == "[x]"

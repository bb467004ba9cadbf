"""Records: each step once, readable by TensorBoard."""

import json
import math
import struct

from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto import event_pb2

from lmseq.training.metrics import MetricsWriter, read_records


def lines(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


RECORDS = [{"step": step, "train_loss": 3.0 / step, "sample": "line\n\u2028é"} for step in (5, 10, 15)]


def test_read_records(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_records(path) == []
    path.write_text(lines(*RECORDS), encoding="utf-8")
    assert read_records(path) == RECORDS
    assert read_records(path, 10) == RECORDS[:2]
    assert read_records(path, 9) == RECORDS[:1]
    assert read_records(path, 0) == []


@given(cut=st.integers(0, len(lines(*RECORDS))))
def test_a_torn_last_line_is_left_out(tmp_path_factory, cut):
    """Wherever a kill cuts the file, the whole records before the cut remain."""
    path = tmp_path_factory.mktemp("torn") / "metrics.jsonl"
    text = lines(*RECORDS)[:cut]
    path.write_text(text, encoding="utf-8")
    # A record is whole once its last brace is there, with or without the end of line.
    whole = (text + "\n").count('"}\n')
    assert read_records(path) == RECORDS[:whole]


def test_writer_drops_what_came_after_the_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    for record in RECORDS:
        writer.write(record["step"], {k: v for k, v in record.items() if k != "step"})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    assert read_records(path) == RECORDS
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 20, "train_lo')

    writer = MetricsWriter(tmp_path, 10)
    assert path.read_text(encoding="utf-8") == lines(*RECORDS[:2])
    writer.write(15, {"train_loss": 0.5})
    # On disk at once, not when the writer is closed.
    assert read_records(path) == [*RECORDS[:2], {"step": 15, "train_loss": 0.5}]
    writer.close()


def test_what_json_has_no_word_for_is_null(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"valid_perplexity": math.inf})
    writer.close()
    assert read_records(tmp_path / "metrics.jsonl") == [{"step": 1, "valid_perplexity": None}]


# TensorBoard


def events(folder):
    """All events of a folder: records of length (8 bytes), checksum (4), message, checksum (4)."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_gets_the_numbers(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(5, {"train_loss": 2.5, "tokens": 40, "sample": "the time"})
    writer.write(10, {"train_loss": 1.25})
    writer.close()
    values = [(e.step, value) for e in events(tmp_path / "tensorboard") for value in e.summary.value]
    scalars = [(step, v.tag, v.simple_value) for step, v in values if v.HasField("simple_value")]
    assert scalars == [(5, "train_loss", 2.5), (5, "tokens", 40.0), (10, "train_loss", 1.25)]
    texts = [(step, v.tensor.string_val[0]) for step, v in values if v.tag.startswith("sample")]
    assert texts == [(5, b"the time")]


def test_tensorboard_is_told_what_to_forget(tmp_path):
    """A run that goes on from step 7 takes back all that was recorded from step 8 on."""
    MetricsWriter(tmp_path, 7).close()
    started = event_pb2.SessionLog.START
    logs = [e.step for e in events(tmp_path / "tensorboard") if e.session_log.status == started]
    assert logs == [8]

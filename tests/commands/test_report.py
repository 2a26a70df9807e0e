"""``e2v report``: the page of a run, and what is said about it."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import soundfile
from support.audio_files import RATE
from support.checkpoints import make_config, make_model
from support.journals import FAILURES, IDS, WHOLE, List, done, done_records, header, publish_all, write, write_run
from support.pages import HOSTILE, ParsedPage, write_data
from support.processes import ROOT, E2v

from e2v_cli.analysis.labels.labels import CLASSES
from e2v_cli.journal.ids import save_ids
from e2v_cli.options import ResultOptions
from e2v_cli.records import Prediction, Utterance
from e2v_cli.results.writer import ResultWriter

pytestmark = pytest.mark.e2e


def predict(e2v: E2v, output_dir: Path, *words: str | Path) -> None:
    ran = e2v("predict", *words, "-m", "sample", "-o", output_dir, "-q", "-j", "1")
    assert ran.returncode == 0, ran.stderr


def shown(made: CompletedProcess[str]) -> str:
    """Return what was written to standard error, without the size of the page."""
    assert made.returncode == 0, made.stderr
    return re.sub(r"[0-9.]+ MB", "# MB", made.stderr)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, e2v: E2v) -> Path:
    """A folder with a corpus of six utterances of six speakers, and its run."""
    folder = tmp_path_factory.mktemp("made")
    predict(e2v, folder / "run", write_data(folder / "data"), "--embeddings", "ark")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of OUT, beside a copy of the corpus, which the test may change; the run's list is the first one."""
    shutil.copytree(made / "data", tmp_path / "data")
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def test_page_of_a_complete_run(run: Path, e2v: E2v) -> None:
    made = e2v("report", run)
    path = run / "report.html"
    assert (made.stdout, shown(made)) == (f"{path}\n", "e2v: # MB, 6 clips\n")
    page = ParsedPage(path)
    assert "Complete. All 6 utterances are done." in page.text
    assert page.section("Is the run whole?").startswith("utterances done 6 of 6 failed 0 0.0 % audio done ")
    assert (
        "model sample SHA-256 of its weights 0f1e5919afb7232472e35585d5713607be57a1e9de281036eded3fb952b1fdb7"
        in page.text
    )
    assert "Failures by reason None: every utterance that was read has a result." in page.text
    assert page.tags["audio"] == 6
    assert " · speaker speaker" in page.section("The doubtful ones")
    assert page.section("Speakers and time").count("speaker") >= 6
    assert "first principal components of 96" in page.section("Map of the embeddings")
    assert f"started in {ROOT}" in page.section("How it was made")
    assert [each["id"] for each in page.data["utterances"]].count("f1-0001") == 1
    assert len(page.data["map"]["points"]) == 6


def test_same_run_gives_the_same_bytes_from_any_folder(run: Path, e2v: E2v, tmp_path: Path) -> None:
    e2v("report", run)
    assert e2v("report", "run", "-o", "again.html", cwd=tmp_path).returncode == 0
    assert (tmp_path / "again.html").read_bytes() == (run / "report.html").read_bytes()


def test_page_that_exists_is_replaced_only_when_asked(run: Path, e2v: E2v) -> None:
    path = run / "report.html"
    path.write_text("mine")
    refused = e2v("report", run)
    message = f"e2v: {path} exists: replace it with --overwrite, or choose another -o\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (4, "", message)
    assert path.read_text() == "mine"
    assert e2v("report", run, "--overwrite", "--title", HOSTILE).returncode == 0
    assert ParsedPage(path).text.startswith(f"Skip to the report Speech emotion · report of a run {HOSTILE} Complete.")


def test_content_policy_allows_only_the_page_itself(run: Path, e2v: E2v) -> None:
    e2v("report", run)
    page = ParsedPage(run / "report.html")
    (policy,) = (value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == parts["base-uri"] == parts["form-action"] == "'none'"
    assert parts["media-src"] == parts["img-src"] == "data:"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.html, re.DOTALL)
        assert parts[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    names = {name for _, name, _ in page.attributes}
    assert "style" not in names
    assert not {name for name in names if name.startswith("on")}
    assert {value[:5] for _, name, value in page.attributes if name in ("src", "href") and value[0] != "#"} == {"data:"}


def test_hostile_ids_transcripts_and_titles_are_text(tmp_path: Path, e2v: E2v) -> None:
    ids = [HOSTILE, "</script>", "{{7*7}}", "${x}", "a\u202eb", "'--"]
    predict(e2v, tmp_path / "run", write_data(tmp_path / "data", ids))
    made = e2v("report", tmp_path / "run", "--title", HOSTILE)
    assert made.returncode == 0, made.stderr
    page = ParsedPage(tmp_path / "run" / "report.html")
    assert (page.tags["script"], page.tags["img"]) == (2, 0)
    assert sorted(each["id"] for each in page.data["utterances"]) == sorted(ids)
    for text in (*ids, f"{HOSTILE} \u202e"):
        assert text in page.text
    assert "\u2028" not in re.findall(r'<script id="data".*?</script>', page.html, re.DOTALL)[0]


def test_hostile_labels_and_details_are_text(tmp_path: Path, e2v: E2v) -> None:
    labels = (HOSTILE, "sad\u2028</script>")
    records = [replace(record, label=labels[record.label == "sad"]) for record in done_records()]
    failures = [replace(failure, detail=HOSTILE, reason=HOSTILE) for failure in FAILURES]
    write(tmp_path, [*records, *failures], replace(header(labels=labels), model=HOSTILE))
    save_ids(tmp_path, IDS)
    made = e2v("report", tmp_path)
    assert made.returncode == 0, made.stderr
    page = ParsedPage(tmp_path / "report.html")
    assert (page.tags["script"], page.tags["img"]) == (2, 0)
    assert f"model {HOSTILE} SHA-256" in page.text
    assert f"{HOSTILE} 2 gone {HOSTILE}" in page.section("Is the run whole?")
    assert [label["name"] for label in page.data["labels"]] == list(labels)
    assert page.data["labels"][1]["word"] == "sad%E2%80%A8</script>"


def test_page_of_an_unfinished_run_counts_remaining_utterances(tmp_path: Path, e2v: E2v) -> None:
    write(tmp_path, [*done_records()[:2], FAILURES[1]], header(), end=False)
    save_ids(tmp_path, IDS)
    made = e2v("report", tmp_path)
    assert shown(made) == (
        "e2v: No utt2spk beside the run's lists: each utterance counts as a speaker of its own.\n"
        "e2v: 2 of 2 clips are missing, as ../x: wav.scp: no such file or folder; INPUT is audio, a folder, a list or "
        "- for standard input\n"
        "e2v: # MB, 0 clips\n"
    )
    page = ParsedPage(tmp_path / "report.html")
    assert "Not complete. 3 of 6 utterances are left; the page shows what was done when it was made." in page.text
    assert "left 3 50.0 %" in page.section("Is the run whole?")
    assert "missing 1 gone a b c d.wav: no such file" in page.text


def test_page_of_a_run_without_results(tmp_path: Path, e2v: E2v) -> None:
    write(tmp_path, [], header(), end=False)
    save_ids(tmp_path, IDS)
    assert e2v("report", tmp_path).returncode == 0
    page = ParsedPage(tmp_path / "report.html")
    assert "Not complete. 6 of 6 utterances are left" in page.text
    assert page.tags["h2"] == 2


def test_page_of_failures_alone(tmp_path: Path, e2v: E2v) -> None:
    only = List(["gone", "broken"])
    write(tmp_path, FAILURES, header(only))
    save_ids(tmp_path, only)
    assert e2v("report", tmp_path).returncode == 0
    page = ParsedPage(tmp_path / "report.html")
    assert "Complete, with failures. 2 of 2 utterances failed." in page.text
    assert "missing 1 gone a b c d.wav: no such file" in page.text


@pytest.fixture
def judged(run: Path) -> Path:
    """A reference of the run, in which one of the six has another label, and another is not there."""
    data = run.parent / "data"
    labels = dict(line.split() for line in (run / "utt2emo").read_text().splitlines())
    labels["m1-0001"] = "happy" if labels["m1-0001"] != "happy" else "sad"
    del labels["m2-0001"]
    (data / "utt2emo").write_text("".join(f"{utt_id} {label}\n" for utt_id, label in labels.items()))
    return data


def test_reference_has_a_score_and_cells_that_open(run: Path, judged: Path, e2v: E2v) -> None:
    made = e2v("report", run, "--reference", judged)
    assert shown(made) == "e2v: # MB, 6 clips\n"
    page = ParsedPage(run / "report.html")
    text = page.section("Against the reference")
    assert text.startswith("WA, accuracy 80.0 % ")
    assert "run against data: 5 of 5 utterances, " in text
    assert "left out: 1 predictions of utterances that the reference does not have" in text
    assert "The most confident errors 1 of 1 errors, the highest scores first." in text
    assert "m1-0001 reference: " in text
    assert "Classes class precision recall F1 support" in text
    assert "By spk" in text
    assert "On 5 utterances of " in text
    cells = [
        (title, [page.data["utterances"][int(number)]["id"] for number in numbers.split()])
        for title, numbers in zip(
            (value for tag, name, value in page.attributes if (tag, name) == ("button", "data-title")),
            (value for tag, name, value in page.attributes if (tag, name) == ("button", "data-numbers")),
            strict=True,
        )
    ]
    reference = dict(line.split() for line in (judged / "utt2emo").read_text().splitlines())
    predicted = dict(line.split() for line in (run / "utt2emo").read_text().splitlines())
    assert sorted((utt_id, title) for title, ids in cells for utt_id in ids) == sorted(
        (utt_id, f"{truth}, recognised as {predicted[utt_id]}") for utt_id, truth in reference.items()
    )


def test_page_with_a_reference_is_the_same_from_any_folder(run: Path, judged: Path, e2v: E2v, tmp_path: Path) -> None:
    e2v("report", run, "--reference", judged)
    assert e2v("report", "run", "--reference", "data", "-o", "again.html", cwd=tmp_path).returncode == 0
    assert (tmp_path / "again.html").read_bytes() == (run / "report.html").read_bytes()


def test_options_of_score_hold(run: Path, judged: Path, e2v: E2v) -> None:
    (judged.parent / "words").write_text("sad joyful\n")
    options = ("--reference", judged, "--label-map", judged.parent / "words", "--ci", "none", "--closed")
    assert e2v("report", run, *options, "--merge", "joyful=other", "--by", "spk").returncode == 0
    page = ParsedPage(run / "report.html")
    text = page.section("Against the reference")
    assert "5 of 5 utterances, 4 classes, closed" in text
    assert "95 % interval" not in text
    refused = e2v("report", run, *options, "--by", "gender", "--overwrite")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--by gender" in refused.stderr


def test_options_of_score_need_a_reference(run: Path, e2v: E2v) -> None:
    refused = e2v("report", run, "--closed")
    message = "e2v: the options of e2v score need what it compares with: add --reference REF\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", message)


def test_unusable_reference_exits_1(run: Path, e2v: E2v) -> None:
    refused = e2v("report", run, "--reference", run)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the labels in a run folder are predicted, and no reference" in refused.stderr
    assert not (run / "report.html").exists()


def test_reference_of_an_unfinished_run_counts_finished_utterances(tmp_path: Path, e2v: E2v) -> None:
    write(tmp_path, done_records()[:2], header(), end=False)
    save_ids(tmp_path, IDS)
    (tmp_path.parent / "labels").write_text("z sad\nü sad\n../x angry\ngone sad\n")
    assert e2v("report", tmp_path, "--reference", tmp_path.parent / "labels").returncode == 0
    text = ParsedPage(tmp_path / "report.html").section("Against the reference")
    assert text.startswith("WA, accuracy 100.0 % ")
    assert "2 without a prediction (of the run, 0 failed and 4 are left)" in text


def test_hostile_references_are_text(run: Path, judged: Path, e2v: E2v) -> None:
    (judged / "utt2emo").write_text("".join(f"{utt_id} {HOSTILE}\n" for utt_id in ("f1-0001", "f1-0002")))
    (judged.parent / "words").write_text(f"{HOSTILE}\t{HOSTILE}\n")
    made = e2v("report", run, "--reference", judged, "--label-map", judged.parent / "words")
    assert made.returncode == 0, made.stderr
    page = ParsedPage(run / "report.html")
    assert (page.tags["script"], page.tags["img"]) == (2, 0)
    assert f"reference: {HOSTILE} · " in page.text


def test_downloaded_labels_can_be_used_as_a_reference(run: Path, e2v: E2v) -> None:
    """The file that the page saves has lines of an id and a label as in OUT."""
    saved = run.parent / "utt2emo"
    saved.write_text("f1-0003 sad\nm1-0001 unknown\n")
    scored = e2v("score", run, saved, "--ci", "none")
    assert scored.returncode == 0, scored.stderr
    assert "2 of 2 utterances" in scored.stdout


def test_audio_that_is_gone_is_listed(tmp_path: Path, e2v: E2v) -> None:
    shutil.copy(ROOT / "sample_data" / "wav" / "f1-0001.wav", tmp_path / "a.wav")
    (tmp_path / "wav.scp").write_text(f"gone a.wav\nhere {ROOT}/sample_data/wav/f1-0003.wav\n")
    assert e2v("predict", "wav.scp", "-m", "sample", "-o", "run", "-q", cwd=tmp_path).returncode == 0
    (tmp_path / "a.wav").unlink()

    made = e2v("report", tmp_path / "run")

    assert made.stdout == f"{tmp_path}/run/report.html\n"
    assert shown(made) == (
        "e2v: No utt2spk beside the run's lists: each utterance counts as a speaker of its own.\n"
        "e2v: 1 of 2 clips are missing, as gone: missing: a.wav: no such file\n"
        "e2v: # MB, 1 clip\n"
    )
    page = ParsedPage(tmp_path / "run" / "report.html")
    assert "1 of 2 clips are missing, as gone: missing: a.wav: no such file" in page.section("Is the run whole?")
    assert page.tags["audio"] == 1


def test_list_that_names_other_audio_now_is_not_played(tmp_path: Path, e2v: E2v) -> None:
    run, scp = tmp_path / "run", tmp_path / "data" / "wav.scp"
    predict(e2v, run, write_data(scp.parent))
    scp.write_text(scp.read_text().replace("f1-0003.wav", "f1-0001.wav"))
    made = e2v("report", run)
    assert (
        shown(made) == "e2v: 1 of 6 clips are missing, as f1-0003: the list names other audio now\ne2v: # MB, 5 clips\n"
    )


def test_voices_stay_without_clips(run: Path, e2v: E2v) -> None:
    made = e2v("report", run, "--clips", "0")
    assert shown(made) == "e2v: # MB, 0 clips\n"
    page = ParsedPage(run / "report.html")
    assert (page.tags["audio"], page.html.count("data:audio")) == (0, 0)
    assert 'class="wave"' not in page.html
    assert page.tags["article"] == 6


def test_page_without_clips_is_small(tmp_path: Path, e2v: E2v) -> None:
    """All lists are full: 60 cards with a label that changes every second, speakers, a map, cells of all confusions."""
    random = np.random.default_rng(0)
    ids = [f"speaker{number % 97:04d}-recording-{number:08d}" for number in range(4000)]
    results = ResultOptions(tmp_path / "run", embeddings="ark", timelines=(1.0,))
    (tmp_path / "run").mkdir()
    writer = ResultWriter(CLASSES, results, WHOLE)
    predictions = [
        Prediction(
            utterance=Utterance(number, utt_id, f"{utt_id}.wav"),
            duration=float(random.uniform(1, 60)),
            num_frames=50,
            windows=1,
            posteriors=random.dirichlet(np.full(9, 0.2)).astype(np.float32),
            embedding=random.normal(size=32).astype(np.float32),
            timelines=(random.dirichlet(np.full(9, 0.2), 60).astype(np.float32),),
        )
        for number, utt_id in enumerate(ids)
    ]
    listed = List(ids)
    write(tmp_path / "run", writer.write(predictions), header(listed, embeddings="ark", labels=CLASSES, timeline=1.0))
    save_ids(tmp_path / "run", listed)
    (tmp_path / "run" / "utt2spk").write_text("".join(f"{utt_id} {utt_id[:11]}\n" for utt_id in ids))
    (tmp_path / "run" / "text").write_text("".join(f"{utt_id} {'so it is said ' * 6}\n" for utt_id in ids))
    labels = random.choice(CLASSES, len(ids))
    (tmp_path / "labels").write_text("".join(f"{utt_id} {label}\n" for utt_id, label in zip(ids, labels, strict=True)))

    made = e2v("report", tmp_path / "run", "--clips", "0", "--reference", tmp_path / "labels", "--ci", "none")

    assert made.returncode == 0, made.stderr
    page = ParsedPage(tmp_path / "run" / "report.html")
    assert page.tags["article"] >= 58
    assert len(page.data["map"]["points"]) == 1500
    assert len(page.html) < 500_000


def test_doubtful_ones_get_the_clips_first(run: Path, e2v: E2v) -> None:
    assert shown(e2v("report", run, "--clips", "2", "--clip-seconds", "0.5")) == "e2v: # MB, 2 clips\n"
    page = ParsedPage(run / "report.html")
    clips = [value for tag, name, value in page.attributes if (tag, name) == ("audio", "id")]
    assert clips == ["clip-0", "clip-1"]
    assert ", played from " in page.section("The doubtful ones")


def test_model_without_a_head_has_no_sections_of_labels(tmp_path: Path, e2v: E2v) -> None:
    model = make_model(tmp_path / "model", make_config(tokenizer=False), tokens=())
    ran = e2v("predict", "sample_data/wav.scp", "-m", model, "-o", tmp_path / "run", "--embeddings", "npy", "-q")
    assert ran.returncode == 0, ran.stderr
    made = e2v("report", tmp_path / "run")
    assert made.returncode == 0, made.stderr
    page = ParsedPage(tmp_path / "run" / "report.html")
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page.html) == [
        "Is the run whole?",
        "Map of the embeddings",
        "How it was made",
    ]
    assert "none: the model has no head, only embeddings" in page.text
    assert page.data["labels"] == page.data["utterances"] == []
    assert len(page.data["map"]["points"]) == 40


@pytest.mark.parametrize(
    "options",
    [
        ("--embeddings", "ark,t"),
        ("--embeddings", "npy", "--embedding-dtype", "fp16"),
        ("--embeddings", "ark", "--granularity", "frame", "--compress"),
        ("--embeddings", "npy", "--granularity", "frame"),
        ("--embeddings", "ark", "--layers", "1,mean:1-3"),
    ],
)
def test_map_is_made_of_any_embeddings(options: Sequence[str], tmp_path: Path, e2v: E2v) -> None:
    predict(e2v, tmp_path / "run", write_data(tmp_path / "data"), *options)
    assert e2v("report", tmp_path / "run", "--clips", "0").returncode == 0
    assert len(ParsedPage(tmp_path / "run" / "report.html").data["map"]["points"]) == 6


def test_map_can_be_left_out_or_be_impossible(run: Path, e2v: E2v) -> None:
    assert e2v("report", run, "--map", "none", "--clips", "0").returncode == 0
    assert ParsedPage(run / "report.html").data["map"] is None
    (archive,) = run.glob("*.ark")
    archive.unlink()
    made = e2v("report", run, "--overwrite", "--clips", "0")
    assert shown(made) == (
        f"e2v: There is no map: [Errno 2] No such file or directory: '{archive}'\ne2v: # MB, 0 clips\n"
    )


def test_record_with_code_is_not_run(run: Path, e2v: E2v) -> None:
    """The package kaldiio would unpickle it."""
    (archive,) = run.glob("*.ark")
    content = archive.read_bytes()
    pickled = b"PKL" + b"cos\nsystem\n(S'touch " + bytes(run / "pwned") + b"'\ntR."
    archive.write_bytes(content.replace(b"\0BFV \4", pickled.ljust(6)[:6], 1).replace(b"PKLcos", pickled, 1))
    made = e2v("report", run, "--clips", "0")
    assert made.returncode == 0
    assert "There is no map" in made.stderr
    assert not (run / "pwned").exists()


def test_timeline_follows_the_clip_of_a_long_recording(tmp_path: Path, e2v: E2v) -> None:
    audio = tmp_path / "long.wav"
    parts = [soundfile.read(ROOT / "sample_data" / "wav" / f"f1-000{number}.wav")[0] for number in (1, 3, 9)]
    with soundfile.SoundFile(audio, "w", RATE, 1) as file:
        for number in range(40):
            file.write(parts[number % 3])
    predict(e2v, tmp_path / "run", audio, "--timeline", "1")
    assert e2v("report", tmp_path / "run").returncode == 0
    page = ParsedPage(tmp_path / "run" / "report.html")
    assert re.search(r"long margin [\d.]+ · \d\d\.\d\d? s, played from [\d.]+ s to [\d.]+ s", page.text)
    assert "Emotions over time: " in page.html
    assert 14 < 6 * len(re.findall(r"base64,([^\"]*)", page.html)[0]) / 8 / 6000 < 16


def test_pipes_are_run_only_when_allowed(tmp_path: Path, e2v: E2v) -> None:
    (tmp_path / "wav.scp").write_text(f"a cat {ROOT}/sample_data/wav/f1-0001.wav |\n")
    predict(e2v, tmp_path / "run", tmp_path / "wav.scp", "--allow-pipes")
    made = e2v("report", tmp_path / "run")
    assert made.returncode == 0
    assert "1 of 1 clips are missing, as a: " in made.stderr
    assert "is a command; --allow-pipes lets e2v run the commands of a list" in made.stderr
    assert shown(e2v("report", tmp_path / "run", "--overwrite", "--allow-pipes")).endswith("e2v: # MB, 1 clip\n")


def test_channels_are_played_as_they_were_recognised(tmp_path: Path, e2v: E2v) -> None:
    left, right = (soundfile.read(ROOT / "sample_data" / "wav" / f"f1-000{number}.wav")[0] for number in (1, 3))
    size = min(len(left), len(right))
    with soundfile.SoundFile(tmp_path / "two.wav", "w", RATE, 2) as file:
        file.write([[a, b] for a, b in zip(left[:size], right[:size], strict=True)])
    predict(e2v, tmp_path / "run", tmp_path / "two.wav", "--channel", "split")
    assert shown(e2v("report", tmp_path / "run")).endswith("e2v: # MB, 2 clips\n")
    page = ParsedPage(tmp_path / "run" / "report.html")
    assert sorted(each["id"] for each in page.data["utterances"]) == ["two-1", "two-2"]
    assert len(set(re.findall(r"base64,([^\"]*)", page.html))) == 2


def test_turns_of_a_diarisation_are_played(tmp_path: Path, e2v: E2v) -> None:
    (tmp_path / "calls.rttm").write_text(
        "SPEAKER dialogue 1 0.53 3.95 <NA> <NA> anna <NA> <NA>\nSPEAKER dialogue 1 5.26 3.83 <NA> <NA> bo <NA> <NA>\n"
    )
    (tmp_path / "wav.scp").write_text(f"dialogue {ROOT}/sample_data/long/wav/dialogue.ogg\n")
    predict(e2v, tmp_path / "run", tmp_path / "wav.scp", "--segments-rttm", tmp_path / "calls.rttm")
    assert shown(e2v("report", tmp_path / "run")) == "e2v: # MB, 2 clips\n"
    text = ParsedPage(tmp_path / "run" / "report.html").section("Speakers and time")
    assert re.search(r"dialogue-anna .* dialogue-bo ", text)


def test_list_on_standard_input_is_gone(tmp_path: Path, e2v: E2v) -> None:
    line = f"a {ROOT}/sample_data/wav/f1-0001.wav\n"
    assert e2v("predict", "-", "-m", "sample", "-o", tmp_path, "-q", stdin=line).returncode == 0
    made = e2v("report", tmp_path)
    assert made.returncode == 0
    assert "e2v: 1 of 1 clips are missing, as a: the list was piped in (-), and is gone\n" in made.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clips", "-1"], "--clips -1: must be 0 or more"),
        (["--clip-seconds", "0"], "--clip-seconds 0: must be from 0.1 to 600 s"),
        (["--clip-seconds", "nan"], "--clip-seconds nan: must be from 0.1 to 600 s"),
        (["--map", "umap"], "--map: 'umap' is not one of 'pca', 'none'"),
    ],
)
def test_wrong_values_exit_2(options: list[str], message: str, tmp_path: Path, e2v: E2v) -> None:
    write_run(tmp_path)
    refused = e2v("report", tmp_path, *options)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"e2v: {message}")


def test_folder_without_a_run_exits_1(tmp_path: Path, e2v: E2v) -> None:
    refused = e2v("report", tmp_path)
    message = f"e2v: {tmp_path} holds no run: choose the -o of e2v predict\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", message)


def test_report_does_not_change_the_run(tmp_path: Path, e2v: E2v) -> None:
    write_run(tmp_path)
    publish_all(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert e2v("report", tmp_path).returncode == 0
    (tmp_path / "report.html").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_utterances_done_once_only_are_of_the_newest_list(tmp_path: Path, e2v: E2v) -> None:
    """Results of ids that the list has lost are not on the page."""
    write(tmp_path, [done("old"), done("z")], header(List(["old", "z"])))
    write(tmp_path, [done("ü")], header(started=9), end=False)
    save_ids(tmp_path, IDS)
    assert e2v("report", tmp_path).returncode == 0
    page = ParsedPage(tmp_path / "report.html")
    assert sorted(each["id"] for each in page.data["utterances"]) == ["z", "ü"]

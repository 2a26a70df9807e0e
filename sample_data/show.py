"""Show a predictions.tsv as a table for people, beside the labels of a Kaldi utt2emo.

python sample_data/show.py exp/demo/predictions.tsv sample_data/utt2emo

"""

import csv
import sys
from pathlib import Path


def main(predictions_path: Path, utt2emo_path: Path) -> None:
    """Print one row per utterance, and the share of labels that agree."""
    spoken = dict(line.split() for line in utt2emo_path.read_text(encoding="utf-8").splitlines())
    with predictions_path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    print(f"\n{'utterance':10} {'seconds':>7}  {'spoken as':10} {'recognised':10}  score")
    for row in rows:
        score = float(row["score"])
        mark = " " if row["label"] == spoken[row["utt_id"]] else "✗"
        bar = "█" * round(20 * score)
        print(
            f"{row['utt_id']:10} {float(row['duration']):7.2f}  {spoken[row['utt_id']]:10} {row['label']:10}{mark} "
            f"{score:5.2f} {bar}"
        )
    right = sum(row["label"] == spoken[row["utt_id"]] for row in rows)
    print(
        f"\n{right} of {len(rows)} right ({right / len(rows):.0%}; chance is 11%). The whole table: {predictions_path}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

#!/bin/sh
# What a GPU does with e2v, in less than eight minutes: the parity of each precision, the encoder alone by the length of
# a batch, its profile, and × real time and % of the peak of products beside FunASR's own loop, at base and large shape.
#
#     tests/bench/gpu.sh [FOLDER] > exp/gpu.md
#
# FOLDER, by default a temporary one, gets models of random weights, and Python packages that are missing. A machine
# without a network installs these from the wheels in the folder that WHEELS names. DEVICE=cpu SIZE=tiny does the same
# steps without a GPU, on a toy: that is how they are tested.
set -eu

cd "$(dirname "$0")/../.."
folder=${1:-$(mktemp -d)}
device=${DEVICE:-cuda}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH="$PWD:$PWD/tests:$folder/packages" E2V_CACHE="$folder/cache"

if [ "${SIZE:-full}" = tiny ]; then
    shapes=tiny precisions=fp32 batches=2 clips="--clips 1 --seconds 1 1" utterances=2
else
    shapes="base large" precisions="fp32 tf32 bf16 fp16" batches="300 75 150 600 1200" clips="--clips 300" utterances=24
fi

step() {
    printf '\n## %s, after %d s\n\n' "$1" $(($(date +%s) - started))
}

started=$(date +%s)
step "Set-up"
mkdir -p "$folder"
missing=$("$python" -c "
from importlib.util import find_spec
packages = ['av', 'funasr', 'kaldiio', 'matplotlib', 'modelscope', 'platformdirs', 'pytest', 'soundfile', 'soxr']
print(*[name for name in packages if find_spec(name) is None])")
[ -z "$missing" ] || "$python" -m pip install --quiet --target "$folder/packages" \
    ${WHEELS:+--no-index --no-deps --find-links "$WHEELS"} $missing
"$python" -c "import torch; print('PyTorch', torch.__version__, torch.version.cuda)"
[ "$device" = cpu ] || nvidia-smi -L
head -n "$utterances" sample_data/wav.scp > "$folder/wav.scp"
for shape in $shapes; do
    "$python" -m bench.encoder "$folder/$shape" --make "$shape"
done

for shape in $shapes; do
    for precision in $precisions; do
        step "Parity: $shape, $precision"
        # beyond the tolerance is a result, too, and exits 3
        "$python" -m e2v_cli check "$folder/wav.scp" -m "$folder/$shape" --device "$device" --precision "$precision" ||
            [ $? -eq 3 ]
        step "Encoder: $shape, $precision"
        "$python" -m bench.encoder "$folder/$shape" --device "$device" --precision "$precision" --seconds $batches
    done
    step "Whole runs: $shape"
    "$python" -m bench.speed --device "$device" --jobs 1 --model "$folder/$shape" --repeats 1 $clips
done
step "End"

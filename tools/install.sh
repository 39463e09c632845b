#!/usr/bin/env bash
# Installs kd_dense and everything it needs into .venv.
# Run it as often as you like: it returns at once when .venv is up to date, and an interrupted install goes on where it
# stopped.
#
#   PYTHON                 the Python to make .venv with (default python3)
#   CXX                    the C++ compiler (default g++, else c++)
#   KD_DENSE_MIN_DISK_GB   free disk space to ask for (default 11; 0 asks for none)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

py=.venv/bin/python
stamp=.venv/.installed
log=.venv/install.log
build_log=.venv/mmcv-build.log
tmp=.venv/tmp
heart=    # process id of the heartbeat, while one runs

# ---- words -----------------------------------------------------------------------------------------------------------

fail() {
  echo "install: $*" >&2
  exit 1
}

# fail_stage LOG: one sentence instead of the pages that pip and compilers print.
fail_stage() {
  fail "stage $stage_name failed: $(reason "$1") (all of it: $1); put that right and run the same command again, it goes on where it stopped."
}

# reason LOG: the cause of a failed pip run in a few words.
reason() {
  local line
  # A full disk can keep pip from writing its own log, so look at the disk too.
  if grep -qiE 'no space left|disk quota exceeded' "$1" 2>/dev/null || [ "$(free_kb)" -lt 51200 ]; then
    echo 'the disk is full'
  elif grep -qE 'Killed signal|signal 9|MemoryError|cc1plus: out of memory' "$1"; then
    echo 'the machine ran out of memory (MAX_JOBS=1 compiles one file at a time)'
  elif tail -n 40 "$1" | grep -E 'NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Network is unreachable|name resolution' >/dev/null; then
    echo 'the package index could not be reached (no network, or a proxy that pip does not know of)'
  else
    # The first compiler error is the cause of all later ones; pip's own last error line says the least.
    line=$(grep -v 'error: subprocess-exited' "$1" | grep -m 1 'error: ' || true)
    [ -n "$line" ] || line=$(grep -E '^ *[A-Za-z.]*Error: ' "$1" | tail -n 1 || true)
    [ -n "$line" ] || line=$(grep '^ERROR: ' "$1" | tail -n 1 || true)
    [ -n "$line" ] || line=$(tail -n 1 "$1")
    echo "$line" | sed 's/^ *//' | cut -c 1-300
  fi
}

# stage NAME TEXT
stage() {
  stage_name=$1
  stage_start=$SECONDS
  echo "$1: $2"
}

stage_done() {
  echo "  done in $(duration $((SECONDS - stage_start)))${1:-}"
}

duration() {
  if [ "$1" -lt 60 ]; then echo "$1 s"; else echo "$(($1 / 60)) min $(($1 % 60)) s"; fi
}

# ---- checks: one sentence each, before anything is written -----------------------------------------------------------

python_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

check_python() {
  local asked=${PYTHON:-} found
  if [ -e "$py" ] || [ -L "$py" ]; then
    found=$(python_version "$py")
    [ -n "$found" ] || fail "$py does not run any more (was its Python removed?): remove the folder (rm -rf .venv) and run this again."
    if [ -n "$asked" ] && [ "$(python_version "$asked")" != "$found" ]; then
      fail ".venv was made with Python $found, but PYTHON=$asked is Python $(python_version "$asked"): leave PYTHON out, or remove the folder (rm -rf .venv) to make a new one."
    fi
    asked=$PWD/$py
  fi
  asked=${asked:-python3}
  found=$(python_version "$asked")
  case $found in
    3.11 | 3.12) ;;
    '') fail "Python 3.11 or 3.12 is needed, but '$asked' does not run: install one, or name it, for example: make demo PYTHON=python3.11" ;;
    *) fail "Python 3.11 or 3.12 is needed, but '$asked' is Python $found: name another one, for example: make demo PYTHON=python3.11" ;;
  esac
  base_python=$asked
  "$base_python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "'$base_python' (Python $found) has no venv module: install it (Debian and Ubuntu: apt install python$found-venv), or name another Python, for example: make demo PYTHON=python3.11"
}

check_compiler() {
  local dir include
  if [ -z "${CXX:-}" ]; then
    CXX=$(command -v g++ || command -v c++ || true)
    [ -n "$CXX" ] || fail "a C++ compiler is needed to build mmcv, but neither g++ nor c++ was found: install one (Debian and Ubuntu: apt install g++), or name it with CXX=..."
  fi
  export CXX
  dir=$(mktemp -d)
  printf '#include <optional>\nint main() { if constexpr (std::optional<int>(1).has_value()) return 0; }\n' >"$dir/cpp17.cpp"
  printf '#include <Python.h>\nint main() { return 0; }\n' >"$dir/header.cpp"
  # CXX may hold several words, such as "ccache g++".
  # shellcheck disable=SC2086
  if ! $CXX -std=c++17 -c "$dir/cpp17.cpp" -o "$dir/cpp17.o" >/dev/null 2>&1; then
    rm -rf "$dir"
    fail "a C++17 compiler is needed to build mmcv, but '$CXX' cannot compile a small C++17 file: install g++ 9 or newer (Debian and Ubuntu: apt install g++), or name another one with CXX=..."
  fi
  include=$("$base_python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  # shellcheck disable=SC2086
  if ! $CXX -std=c++17 -I"$include" -c "$dir/header.cpp" -o "$dir/header.o" >/dev/null 2>&1; then
    rm -rf "$dir"
    fail "the headers of Python $(python_version "$base_python") are needed to build mmcv, but Python.h was not found in $include: install them (Debian and Ubuntu: apt install python$(python_version "$base_python")-dev), or name another Python, for example: make demo PYTHON=python3.11"
  fi
  rm -rf "$dir"
}

free_kb() {
  df -Pk . | awk 'NR == 2 { print $4 }'
}

# Measured: .venv ends at 5.7 GB and holds 7.4 GB on the way; pip may keep its downloads, another 1.9 GB.
check_disk() {
  local need=${KD_DENSE_MIN_DISK_GB:-11} have used=0
  have=$(($(free_kb) / 1048576))
  # What an interrupted install has already put into .venv is not needed a second time.
  [ ! -d .venv ] || used=$(($(du -sk .venv | cut -f 1) / 1048576))
  need=$((need > used ? need - used : need > 0))
  [ "$have" -ge "$need" ] ||
    fail "about $need GB of free disk space is needed (.venv and pip's downloads), but $PWD has $have GB: free some, or set KD_DENSE_MIN_DISK_GB to a smaller number to try all the same."
}

# ---- the stamp: what .venv was installed from ------------------------------------------------------------------------

# The folder is part of it, because the editable install points there: a moved folder is installed anew, in seconds.
fingerprint() {
  { echo "$PWD"; cat requirements.txt setup.py; } | cksum
}

up_to_date() {
  [ -f "$stamp" ] && [ -x "$py" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] || return 1
  [ -z "${PYTHON:-}" ] || [ "$(python_version "$PYTHON")" = "$(python_version "$py")" ]
}

# ---- running pip -----------------------------------------------------------------------------------------------------

# Temporary files stay inside .venv: a small /tmp cannot fill up, and the heartbeat can see what is being built.
pip() {
  TMPDIR="$PWD/$tmp" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 "$py" -m pip "$@"
}

# watched LOG PROGRESS COMMAND...: runs it with its output in the log, and prints PROGRESS's words every 15 seconds.
watched() {
  local log=$1 progress=$2 status=0
  shift 2
  heartbeat "$progress" &
  heart=$!
  "$@" >>"$log" 2>&1 || status=$?
  stop_heartbeat
  return "$status"
}

heartbeat() {
  local nap=
  # Taking its sleep along when it is stopped: left behind, that would keep the folder busy.
  trap 'kill "$nap" 2>/dev/null; exit 0' TERM
  while kill -0 $$ 2>/dev/null; do
    sleep 15 </dev/null >/dev/null 2>&1 &
    nap=$!
    wait "$nap"
    echo "  $(duration $((SECONDS - stage_start))): $($1)"
  done
}

stop_heartbeat() {
  [ -z "$heart" ] || kill "$heart" 2>/dev/null || true
  [ -z "$heart" ] || wait "$heart" 2>/dev/null || true
  heart=
}

interrupted() {
  stop_heartbeat
  echo "install: stopped; run the same command again, it goes on where it stopped." >&2
  exit 130
}

venv_size() {
  du -sh .venv 2>/dev/null | cut -f 1 || true
}

packages_progress() {
  echo "downloading and installing, .venv holds $(venv_size)"
}

build_progress() {
  local ninja
  ninja=$(find "$tmp" -name build.ninja 2>/dev/null | head -n 1)
  if [ -z "$ninja" ]; then
    echo 'preparing'
  else
    echo "$(find "${ninja%/*}" -name '*.o' | wc -l | tr -d ' ') of $(grep -c '^build .*\.o: ' "$ninja") files compiled"
  fi
}

short_progress() {
  echo 'still working'
}

# ---- the four stages -------------------------------------------------------------------------------------------------

make_environment() {
  stage '1/4 environment' "making .venv with its build tools, a few seconds"
  mkdir -p "$tmp" && : >"$log" || fail_stage "$log"
  if ! "$py" -m pip --version >/dev/null 2>&1; then
    watched "$log" short_progress "$base_python" -m venv .venv || fail_stage "$log"
  fi
  forget_half_installed
  # shellcheck disable=SC2046
  watched "$log" short_progress pip install --no-deps \
    $(grep -E '^(setuptools|wheel|packaging|ninja|psutil)==' requirements.txt) || fail_stage "$log"
  stage_done
}

# pip writes a package's RECORD last. Without one the package was interrupted half-way, yet pip takes it as installed.
forget_half_installed() {
  local info
  for info in .venv/lib/python*/site-packages/*.dist-info; do
    [ -s "$info/RECORD" ] || rm -rf "$info"
  done
}

install_packages() {
  stage '2/4 packages' 'about 2 GB to download: 1 minute on a fast line, 10 on a slow one'
  grep -v '^onedl-mmcv==' requirements.txt >"$tmp/packages.txt" || fail_stage "$log"
  watched "$log" packages_progress pip install --no-build-isolation --no-deps -r "$tmp/packages.txt" ||
    fail_stage "$log"
  stage_done
}

# Is the right mmcv there, with compiled operators that load, for the GPU too where there is one?
mmcv_ready() {
  "$py" - "$mmcv_version" <<'PY'
import sys

import mmcv
import torch
from mmcv.ops import get_compiling_cuda_version

assert mmcv.__version__ == sys.argv[1], f'mmcv is {mmcv.__version__}'
assert not torch.cuda.is_available() or get_compiling_cuda_version() != 'not available', 'mmcv has no CUDA operators'
PY
}

install_mmcv() {
  local jobs=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)} kept
  stage '3/4 mmcv' "compiling its operators, $jobs at a time, about $(((5 + jobs - 1) / jobs)) minutes; seconds where an earlier build was kept"
  if mmcv_ready >/dev/null 2>&1; then
    stage_done ': already there'
    return
  fi
  check_cuda
  : >"$build_log"
  kept=$(wheels_folder)
  # An earlier build may be damaged, or from a machine without a GPU: then it is built anew.
  if ! { install_wheel "$kept" && mmcv_ready; } >>"$build_log" 2>&1; then
    build_wheel "$kept"
    install_wheel "$kept" --force-reinstall >>"$build_log" 2>&1 || fail_stage "$build_log"
    mmcv_ready >>"$build_log" 2>&1 || fail_stage "$build_log"
  fi
  stage_done
}

# mmcv's setup compiles for CUDA as soon as torch sees a GPU, and breaks when there is no compiler for it.
check_cuda() {
  local missing
  missing=$("$py" - 2>/dev/null <<'PY'
import torch
from torch.utils.cpp_extension import CUDA_HOME

if torch.cuda.is_available() and CUDA_HOME is None:
    print(torch.version.cuda)
PY
) || return 0    # a torch that does not import is for the next step to report
  [ -z "$missing" ] ||
    fail "torch sees a GPU, but nvcc, the CUDA compiler that mmcv needs for it, was not found: install the CUDA toolkit $missing and set CUDA_HOME, or do without the GPU: CUDA_VISIBLE_DEVICES= make demo"
}

# Where the built wheel is kept for the next clone, apart for each torch, whose operators fit no other.
wheels_folder() {
  local folder
  folder=${XDG_CACHE_HOME:-${HOME:-/nowhere}/.cache}/kd_dense/mmcv-torch-$(sed -n 's/^torch==//p' requirements.txt)
  mkdir -p "$folder" 2>/dev/null && [ -w "$folder" ] || folder=$PWD/$tmp/wheels
  echo "$folder"
}

# install_wheel FOLDER [OPTION]
install_wheel() {
  pip install --no-deps --no-index --find-links "$1" "${@:2}" "onedl-mmcv==$mmcv_version"
}

# build_wheel FOLDER
build_wheel() {
  local source=$tmp/onedl_mmcv-$mmcv_version merged=no
  fetch_source
  if ! "$py" -c 'import torch; raise SystemExit(not torch.cuda.is_available())'; then
    merge_files "$source" && merged=yes
  fi
  compile "$source" "$1" && return
  [ "$merged" = yes ] || fail_stage "$build_log"
  fetch_source    # as it comes, file by file
  compile "$source" "$1" || fail_stage "$build_log"
}

# Without build isolation, because mmcv's setup imports torch: in an isolated environment it leaves the operators out.
fetch_source() {
  rm -rf "$source"
  watched "$build_log" short_progress pip download --no-build-isolation --no-deps --no-binary :all: -d "$tmp" \
    "onedl-mmcv==$mmcv_version" || fail_stage "$build_log"
  tar -xzf "$source.tar.gz" -C "$tmp" >>"$build_log" 2>&1 || fail_stage "$build_log"
}

# compile SOURCE FOLDER. Python's own flags ask for debugging information, a third of the compiler's time.
compile() {
  CFLAGS="${CFLAGS:-} -g0" MMCV_WITH_OPS=1 MAX_JOBS=$jobs watched "$build_log" build_progress \
    pip wheel -v --no-build-isolation --no-deps -w "$2" "./$1"
}

# Most of the time that a file of mmcv's takes is torch's headers: 78 files become 9. Those named define what others
# define too; pybind alone takes as long as all of its folder.
merge_files() {
  mv "$1"/mmcv/ops/csrc/pytorch/{pybind,a_pybind}.cpp    # the longest one first: they begin in alphabetical order
  merge "$1/mmcv/ops/csrc/pytorch" a_pybind
  merge "$1/mmcv/ops/csrc/pytorch/cpu" psamask roi_align roi_align_rotated rotated_feature_align
}

# merge FOLDER APART...: two files that include the others, for two compilers side by side
merge() {
  local folder=$1 file name count=0
  mkdir "$folder/parts"
  for file in "$folder"/*.cpp; do
    name=$(basename "$file" .cpp)
    case " ${*:2} " in *" $name "*) continue ;; esac
    mv "$file" "$folder/parts/"
    count=$((count + 1))
    echo "#include \"parts/$name.cpp\"" >>"$folder/merged_$((count % 2)).cpp"
  done
}

install_kd_dense() {
  stage '4/4 kd_dense' 'installing this folder and trying every import, about 20 seconds'
  watched "$log" short_progress pip install --no-build-isolation --no-deps -e . || fail_stage "$log"
  watched "$log" short_progress check_imports || fail_stage "$log"
  stage_done
}

check_imports() {
  "$py" - <<'PY'
import importlib

for name in (
    'torch torchvision torch.utils.tensorboard cv2 sklearn pycocotools.mask '
    'mmengine mmcv.ops mmdet.apis mmseg.apis onnx onnxruntime timm kd_dense'
).split():
    try:
        importlib.import_module(name)
    except Exception as error:
        raise SystemExit(f'ImportError: `import {name}` fails with {type(error).__name__}: {error}')
PY
}

main() {
  ! up_to_date || exit 0
  trap interrupted INT TERM
  trap stop_heartbeat EXIT
  mmcv_version=$(sed -n 's/^onedl-mmcv==//p' requirements.txt)
  check_python
  check_compiler
  check_disk
  rm -rf "$tmp"
  make_environment
  install_packages
  install_mmcv
  install_kd_dense
  rm -rf "$tmp"
  fingerprint >"$stamp"
  echo "Installed into .venv ($(venv_size)) in $(duration $SECONDS)."
}

# Sourced by the tests, run by everyone else.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main
fi

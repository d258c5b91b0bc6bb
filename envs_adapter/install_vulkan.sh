#!/usr/bin/env bash
# Makes sure that SAPIEN and OpenCV import and that SAPIEN can render, installing system packages if it must.
#
#   install_vulkan.sh                          look, and install what is missing
#   install_vulkan.sh --check                  look only: exit 0 if everything works
#   install_vulkan.sh --backports-source SUITE [APT_DIR]
#                                              print the apt source of SUITE-backports that the
#                                              machine's own sources in APT_DIR (/etc/apt) lead to
#
# PYTHON names the interpreter that has SAPIEN (default: .venv/bin/python, else python3).
set -euo pipefail

readonly MESA_MINIMUM="24.3"
readonly LIBRARIES="libx11-6 libxcb1 libgl1 libglib2.0-0"
readonly SOURCE_FILE="/etc/apt/sources.list.d/twinbench-backports.sources"

say() { printf 'vulkan: %s\n' "$*" >&2; }

python_with_sapien() {
  if [[ -n "${PYTHON:-}" ]]; then
    printf '%s' "$PYTHON"
  elif [[ -x .venv/bin/python ]]; then
    printf '%s' .venv/bin/python
  else
    printf '%s' python3
  fi
}

# SAPIEN looks for its devices by itself, so only SAPIEN can say whether one works; in a process
# of its own, because a driver that is broken may crash it.
vulkan_works() {
  "$(python_with_sapien)" - >/dev/null 2>&1 <<'PY'
import warnings

warnings.simplefilter("ignore")
import sapien
import sapien.render

for name in ("cuda", "cpu"):  # The order in which the simulator chooses.
    try:
        device = sapien.Device(name)
    except RuntimeError:
        continue
    if name == "cpu" or device.can_render():
        break
sapien.render.RenderSystem(device)
PY
}

# Both wheels expect X11's client library and a few others on the machine.
libraries_load() { "$(python_with_sapien)" -c 'import cv2, sapien' >/dev/null 2>&1; }

# Prints the apt stanza for SUITE-backports: the machine's own stanza of SUITE (mirror, key and
# options) with the suite's name replaced. Reads deb822 `.sources` and one-line `.list` files.
backports_source() {
  local suite="$1" apt_dir="${2:-/etc/apt}" file stanza
  for file in "$apt_dir"/sources.list.d/*.sources; do
    [[ -f "$file" ]] || continue
    stanza=$(from_deb822 "$suite" <"$file")
    if [[ -n "$stanza" ]]; then printf '%s\n' "$stanza"; return 0; fi
  done
  for file in "$apt_dir"/sources.list "$apt_dir"/sources.list.d/*.list; do
    [[ -f "$file" ]] || continue
    stanza=$(from_one_line "$suite" <"$file")
    if [[ -n "$stanza" ]]; then printf '%s\n' "$stanza"; return 0; fi
  done
  return 1
}

from_deb822() {
  awk -v suite="$1" '
    function flush(    i, name) {
      if (!done && has_suite && has_deb && !disabled) {
        print "Types: deb"
        for (i = 1; i <= n; i++) print kept[i]
        print "Suites: " suite "-backports"
        print "Components: main"
        done = 1
      }
      n = 0; has_suite = 0; has_deb = 0; disabled = 0; field = ""
    }
    /^[ \t]*$/ { flush(); next }
    /^#/ { next }
    {
      value = $0
      if ($0 !~ /^[ \t]/) {
        field = tolower($0); sub(/:.*/, "", field)
        sub(/^[^:]*:[ \t]*/, "", value)
      }
      if (field == "types") { if ((" " value " ") ~ /[ \t]deb[ \t]/) has_deb = 1 }
      else if (field == "suites") {
        count = split(value, words, /[ \t]+/)
        for (i = 1; i <= count; i++) if (words[i] == suite) has_suite = 1
      }
      else if (field == "enabled") { if (tolower(value) ~ /^(no|false|0)/) disabled = 1 }
      else if (field != "components") kept[++n] = $0
    }
    END { flush() }
  '
}

from_one_line() {
  awk -v suite="$1" '
    !done && $1 == "deb" {
      line = $0; options = ""
      if (match(line, /\[[^]]*\]/)) {
        options = substr(line, RSTART + 1, RLENGTH - 2)
        line = substr(line, 1, RSTART - 1) substr(line, RSTART + RLENGTH)
      }
      count = split(line, words, /[ \t]+/)
      if (words[3] != suite) next
      print "Types: deb"
      print "URIs: " words[2]
      names["signed-by"] = "Signed-By"; names["arch"] = "Architectures"
      names["trusted"] = "Trusted"; names["check-valid-until"] = "Check-Valid-Until"
      count = split(options, pairs, /[ \t]+/)
      for (i = 1; i <= count; i++) {
        at = index(pairs[i], "=")
        if (!at) continue
        name = tolower(substr(pairs[i], 1, at - 1)); value = substr(pairs[i], at + 1)
        gsub(/,/, " ", value)
        if (name in names) print names[name] ": " value
      }
      print "Suites: " suite "-backports"
      print "Components: main"
      done = 1
    }
  '
}

apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"; }

apt_update() {
  say "refreshing the package lists"
  apt update || say "apt-get update reported errors (above); going on with the lists that there are"
}

install_packages() {
  say "installing $*"
  apt install -y --no-install-recommends "$@" >/dev/null
}

candidate() { apt-cache policy mesa-vulkan-drivers | awk '/Candidate:/ { print $2 }'; }

recent_enough() {
  [[ -n "$1" && "$1" != "(none)" ]] && dpkg --compare-versions "$1" ge "$MESA_MINIMUM"
}

backports_version() {
  apt-cache madison mesa-vulkan-drivers |
    awk -F'|' -v suite="$1-backports/" 'index($3, suite) { gsub(/ /, "", $2); print $2; exit }'
}

install_mesa() {
  local codename="$1"
  if recent_enough "$(candidate)"; then
    install_packages libvulkan1 mesa-vulkan-drivers
    return
  fi
  if [[ "$DISTRIBUTION" != debian ]]; then
    say "this system offers mesa-vulkan-drivers $(candidate), and >= $MESA_MINIMUM is needed:"
    say "upgrade the system (Ubuntu 24.04 with updates has it), or install a newer Mesa."
    return 1
  fi
  if ! recent_enough "$(backports_version "$codename")"; then
    local stanza
    if ! stanza=$(backports_source "$codename"); then
      say "no apt source of $codename was found under /etc/apt to derive $codename-backports from"
      return 1
    fi
    say "adding $codename-backports in $SOURCE_FILE"
    printf '%s\n' "$stanza" >"$SOURCE_FILE"
    apt_update
    if ! recent_enough "$(backports_version "$codename")"; then
      rm -f "$SOURCE_FILE"
      say "the machine's mirror has no $codename-backports with Mesa >= $MESA_MINIMUM"
      return 1
    fi
  fi
  install_packages -t "$codename-backports" libvulkan1 mesa-vulkan-drivers
}

print_commands() {
  cat >&2 <<TEXT
vulkan: SAPIEN finds no Vulkan device (or it or OpenCV misses a library), and this script installs
vulkan: packages only as root on Debian or Ubuntu. Run what fits this machine, then try again:

  Debian 12, as root     bash envs_adapter/install_vulkan.sh
  (with sudo)            sudo PYTHON="$(python_with_sapien)" bash envs_adapter/install_vulkan.sh
  Debian 13, Ubuntu 24+  sudo apt-get install libvulkan1 mesa-vulkan-drivers $LIBRARIES
  Fedora                 sudo dnf install vulkan-loader mesa-vulkan-drivers mesa-libGL libX11 glib2
  Arch                   sudo pacman -S vulkan-icd-loader vulkan-swrast libglvnd libx11 glib2
  NVIDIA GPU             the driver brings its own Vulkan device; in a container, run it with
                         NVIDIA_DRIVER_CAPABILITIES=all

  Mesa must be $MESA_MINIMUM or newer. \`twinbench doctor\` says what SAPIEN finds afterwards.
TEXT
}

all_works() { libraries_load && vulkan_works; }

main() {
  case "${1:-}" in
    --backports-source) shift; backports_source "$@"; exit ;;
    --check) all_works; exit ;;
    "") ;;
    *) say "unknown option $1; known: --check, --backports-source"; exit 2 ;;
  esac

  if all_works; then
    say "a Vulkan device works: nothing to install"
    return
  fi

  if ! "$(python_with_sapien)" -c 'import importlib.util as u; exit(not u.find_spec("sapien"))'; then
    say "$(python_with_sapien) has no sapien: run \`make setup\` (or set PYTHON) first"
    exit 1
  fi
  DISTRIBUTION=other
  local codename=""
  if [[ -r /etc/os-release ]]; then
    # shellcheck disable=SC1091
    DISTRIBUTION=$(. /etc/os-release && echo "${ID:-other}")
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  fi
  if [[ "$DISTRIBUTION" != debian && "$DISTRIBUTION" != ubuntu ]] || [[ "$(id -u)" != 0 ]]; then
    print_commands
    exit 1
  fi

  apt_update
  libraries_load || install_packages $LIBRARIES
  if ! libraries_load; then
    say "still not importable: $("$(python_with_sapien)" -c 'import cv2, sapien' 2>&1 | tail -1)"
    exit 1
  fi
  vulkan_works || install_mesa "$codename" || exit 1
  if ! vulkan_works; then
    say "the packages are there, and SAPIEN still finds no Vulkan device: see \`twinbench doctor\`"
    exit 1
  fi
  say "a Vulkan device works"
}

main "$@"

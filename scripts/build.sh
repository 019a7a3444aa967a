# Sourced by the other scripts, from the root of the checkout.

# One compiler for each core, but no more than one for each 2 GiB of memory: files with Torch's headers need that.
build_jobs() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/MemTotal/ {print int($2 / 2097152)}' /proc/meminfo)
  echo $((memory < 1 ? 1 : memory < cores ? memory : cores))
}

# build PRESET TARGET [OPTION...]: configures with the options and builds; progress goes to standard error.
build() {
  cmake --preset "$1" "${@:3}" >&2
  cmake --build "build/$1" --target "$2" --parallel "$(build_jobs)" >&2
}

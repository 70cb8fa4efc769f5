# Sourced by scripts/cross and .ci/arm, in the repository's root: the native library and its tests for another system.

# cross_build FOLDER SYSTEM PROCESSOR COMPILER [CMAKE OPTION...] [-- TARGET...]
cross_build() {
    local folder=$1 options=(-DCMAKE_SYSTEM_NAME="$2" -DCMAKE_SYSTEM_PROCESSOR="$3" -DCMAKE_CXX_COMPILER="$4")
    shift 4
    while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
    [ $# -eq 0 ] || shift
    ! command -v ninja >/dev/null || options+=(-G Ninja)
    ! command -v ccache >/dev/null || options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
    cmake -S . -B "$folder" -DCMAKE_BUILD_TYPE=Release -DEDGELLM_PYTHON=OFF -DEDGELLM_TESTS=ON "${options[@]}" >/dev/null &&
        cmake --build "$folder" -j "${JOBS:-$(nproc)}" "${@/#/--target=}"
}

# Type-checks packages one after the other with one cache, twice, as a build with one step a package does.
for round in 1 2; do
    for package in "$@"; do
        python -m mypy --no-sqlite-cache --cache-dir .mypy_cache --package "$package"
    done
done

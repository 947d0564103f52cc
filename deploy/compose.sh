# To be sourced: `compose`, whichever of Docker's two is there.

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose "$@"
    else
        docker-compose "$@"
    fi
}

# The name that Compose puts before those of networks and containers.
compose_project() {
    local name=${COMPOSE_PROJECT_NAME:-$(basename "$PWD")}
    printf '%s' "$name" | tr '[:upper:]' '[:lower:]' | tr -cd 'a-z0-9_-'
}

# The files that Compose reads here, in order, as COMPOSE_FILE has them.
compose_files() {
    local files=${COMPOSE_FILE:-$(sed -n 's/^COMPOSE_FILE=//p' .env 2>/dev/null || true)}
    printf '%s' "${files:-docker-compose.yml:docker-compose.override.yml}"
}

# Those that a container was made from: Compose notes them with their folders, or without.
compose_files_of() { # CONTAINER
    docker inspect -f '{{index .Config.Labels "com.docker.compose.project.config_files"}}' "$1" |
        tr , '\n' | sed 's|.*/||' | paste -sd :
}

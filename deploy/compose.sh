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

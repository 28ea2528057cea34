# What one does here. `make help` lists it.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
XCADDY := github.com/caddyserver/xcaddy/cmd/xcaddy@v0.4.5
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.7
GORELEASER := github.com/goreleaser/goreleaser/v2@v2.9.0
CADDY := v2.11.9
# The plugin, and what has requirements of its own.
MODULES := . bench e2e/interop

.DEFAULT_GOAL := help
.PHONY: help build xcaddy run test race lint check ci docs fuzz bench cross packaging clean

help: ## List what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build Caddy with this plugin into ./caddy
	CGO_ENABLED=0 go build -o caddy ./cmd/caddy

xcaddy: ## Build it by xcaddy into ./caddy-xcaddy; CADDY=latest for the newest Caddy
	go run $(XCADDY) build $(CADDY) --with github.com/caddy-replicate/replicate-webhook@v0.0.0=. --output caddy-xcaddy

run: ## Run Caddyfile.example with a secret made for this run
	WEBHOOK_SECRET="whsec_$$(openssl rand -base64 24)" go run ./cmd/caddy run --config Caddyfile.example

test: ## All tests
	go test ./...

race: ## All tests with the race detector
	go test -race ./...

lint: ## Format, vet, staticcheck, tidiness
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	@for m in $(MODULES); do echo $$m; go -C $$m vet ./... && go -C $$m run $(STATICCHECK) ./... && go -C $$m mod tidy -diff || exit 1; done

check: lint race ## What to run before a pull request

ci: ## What CI runs; installs Debian packages, needs root
	bash .ci/run

docs: ## Write docs/json.md and the error texts of docs/caddyfile.md
	go test ./e2e/docs -run 'JSONReference|CaddyfileErrors|Metrics' -update

fuzz: ## All fuzz tests, each for FUZZTIME, 1m unless given
	go run ./scripts/fuzz -time $${FUZZTIME:-1m}

bench: ## Measure; see bench/README.md
	go -C bench run .

cross: ## Compile and vet for the systems that are released for
	@for os in linux darwin windows freebsd; do echo $$os; for m in $(MODULES); do GOOS=$$os CGO_ENABLED=0 go -C $$m vet ./... || exit 1; done; done

packaging: ## Lint workflows and the release configuration
	go run $(ACTIONLINT)
	go run $(GORELEASER) check

clean: ## Remove what was built
	rm -f caddy caddy-xcaddy

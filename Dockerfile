# Caddy with this plugin, based on Caddy's images.
#
#	docker build -t caddy-replicate-webhook .
#	docker run -p 80:80 -p 443:443 -v caddy_data:/data -v ./Caddyfile:/etc/caddy/Caddyfile caddy-replicate-webhook
#
# The state is in /data: mount a volume there, or it is lost with the container.
FROM caddy:2.11.9-builder AS builder
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 xcaddy build v2.11.9 \
	--with github.com/caddy-replicate/replicate-webhook=/src \
	--output /usr/bin/caddy

FROM caddy:2.11.9
COPY --from=builder /usr/bin/caddy /usr/bin/caddy

package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"mime"
	"net/http"
	"path"
	"time"
)

// idiomorph.min.js is version 0.8.0 of the npm package idiomorph as it is
// published; its license is beside it. The rest is our own.
//
//go:embed assets
var assetFiles embed.FS

// asset is a file that pages load.
type asset struct {
	data []byte
	kind string
	etag string
}

// assets are the files by name. What is not here is not served.
var assets = map[string]*asset{
	"app.css":          readAsset("app.css"),
	"app.js":           readAsset("app.js"),
	"idiomorph.min.js": readAsset("idiomorph.min.js"),
	"icon.svg":         readAsset("icon.svg"),
}

func readAsset(name string) *asset {
	data, err := assetFiles.ReadFile("assets/" + name)
	if err != nil {
		panic(err) // it is compiled in
	}
	sum := sha256.Sum256(data)
	return &asset{data: data, kind: mime.TypeByExtension(path.Ext(name)), etag: hex.EncodeToString(sum[:8])}
}

// serve serves the asset. Pages name it with its hash, under which
// browsers keep it.
func (a *asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("Etag", `"`+a.etag+`"`)
	if r.URL.RawQuery == "v="+a.etag {
		h.Set("Cache-Control", "private, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.data))
}

// assetURL returns an asset's path below the dashboard's root.
func assetURL(name string) string { return "assets/" + name + "?v=" + assets[name].etag }

package ecmajson

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// webhook is a payload as a prediction service sends it, about 1.3 KB.
func webhook() string {
	return `{"event":"prediction.completed","prediction":{"id":"pred_8k2m4x7q9w1z","version":"stability-ai/sdxl@39ed52f2a78e934b3ba6e2a89f5b1c712de7dfea535525255b1aa35c5565e08b",` +
		`"input":{"prompt":"A photograph of a lighthouse on a cliff above a calm sea at dusk, warm light in the windows, long exposure, detailed clouds, 35mm film",` +
		`"negative_prompt":"blurry, low quality, watermark","width":1024,"height":768,"num_outputs":4,"guidance_scale":7.5,"num_inference_steps":50,"seed":839201743,"scheduler":"K_EULER","refine":"expert_ensemble_refiner","high_noise_frac":0.8},` +
		`"output":["https://files.example.com/outputs/8k2m4x7q9w1z/out-0.png","https://files.example.com/outputs/8k2m4x7q9w1z/out-1.png",` +
		`"https://files.example.com/outputs/8k2m4x7q9w1z/out-2.png","https://files.example.com/outputs/8k2m4x7q9w1z/out-3.png"],` +
		`"logs":"Using seed: 839201743\nloading weights\n  0%|          | 0/50\n 50%|#####     | 25/50\n100%|##########| 50/50\ndone\n","metrics":{"predict_time":8.412,"total_time":11.937},"error":null,` +
		`"status":"succeeded","created_at":"2024-01-15T10:30:00.000Z","started_at":"2024-01-15T10:30:01.123Z","completed_at":"2024-01-15T10:30:09.535Z"},"timestamp":"2024-01-15T10:30:09.601Z"}`
}

func benchSelector() *Selector {
	return NewSelector([]string{"event"}, []string{"timestamp"}, []string{"prediction", "id"}, []string{"prediction", "version"},
		[]string{"prediction", "status"}, []string{"prediction", "output"})
}

func BenchmarkParse(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	var numbers, reorder, words strings.Builder
	numbers.WriteString("[0")
	for range 50000 {
		fmt.Fprintf(&numbers, ",%v", r.NormFloat64())
	}
	numbers.WriteString("]")
	reorder.WriteString("[0")
	for i := range 10000 {
		fmt.Fprintf(&reorder, `,{"name":"n%d","7":1,"3":{"b":true,"0":null},"name":"again"}`, i)
	}
	reorder.WriteString("]")
	for words.Len() < 1<<20 {
		words.WriteString("the quick brown fox jumps over the lazy dog, ")
	}
	index := strings.Builder{}
	for i := range 100000 {
		fmt.Fprintf(&index, `,"%d":0`, r.IntN(1<<30)+i)
	}
	spaced := strings.NewReplacer(`":`, `": `, `,"`, `, "`).Replace(webhook())
	escaped := `["` + strings.Repeat(`\u65e5\u672c\u8a9e `, 3000) + `"]`
	raw := `["` + strings.Repeat("日本語 ", 10000) + `"]`
	for _, c := range []struct{ name, in string }{
		{"webhook", webhook()},
		{"webhook with spaces", spaced},
		{"1MB string output", strings.Replace(webhook(), `"output":[`, `"output":["`+words.String()+`",`, 1)},
		{"numbers", numbers.String()},
		{"short numbers", "[" + strings.Repeat("12.5,-3,1024,0.75,", 20000) + "0]"},
		{"reorder", reorder.String()},
		{"random indices", "{" + index.String()[1:] + "}"},
		{"escaped CJK", escaped},
		{"raw CJK", raw},
	} {
		b.Run(c.name, func(b *testing.B) {
			src, sel := []byte(c.in), benchSelector()
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(src, Limits{}, sel); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

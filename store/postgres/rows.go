package postgres

import (
	"cmp"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

const (
	predictionColumns = "p.ref, p.api, p.id, p.client, p.url, p.events, p.poll_path, p.credential, p.token, p.traceparent, p.test, p.body, p.created, p.happened, p.webhook, p.poller"
	deliveryColumns   = "d.n, d.nonce, d.prediction, d.event, d.redelivery, d.state, d.attempts, d.due, d.created, d.endpoint, d.held, d.owner, d.lease"

	// lockPredictions locks in the order of refs, so that nodes never wait
	// for each other in a circle.
	lockPredictions = "SELECT " + predictionColumns + " FROM webhook_predictions p WHERE p.ref = ANY(" + jobRefs + ") ORDER BY p.ref FOR UPDATE"
	// jobRefs are the predictions that jobs name by ref and by key.
	jobRefs = "$1::bigint[] || ARRAY(SELECT ref FROM webhook_predictions WHERE key = ANY($2::bytea[]))"
	// lockDeliveries is a statement of its own, that sees what was committed
	// before the predictions could be locked.
	lockDeliveries = "SELECT " + deliveryColumns + ` FROM webhook_deliveries d
		WHERE d.prediction = ANY(` + jobRefs + `)
		AND (d.state = 0 OR d.owner <> 0 OR d.event = 1 AND NOT d.redelivery) FOR UPDATE`
	// nextNumbers comes after the locks: a prediction's rows are numbered in
	// the order in which they are committed.
	nextNumbers = "SELECT nextval('webhook_numbers') FROM generate_series(1, $1)"
)

// scanPrediction reads predictionColumns.
func scanPrediction(row pgx.Row) (p store.Prediction, poller int64, err error) {
	var events, happened, webhook int16
	var created int64
	var api, id, client, url, path, trace []byte
	err = row.Scan(&p.Ref, &api, &id, &client, &url, &events, &path, &p.Credential, &p.Token, &trace, &p.Test, &p.Body, &created, &happened, &webhook, &poller)
	if errors.Is(err, pgx.ErrNoRows) {
		err = store.ErrNotFound
	}
	p.API, p.ID, p.Client, p.URL, p.PollPath, p.Traceparent = string(api), string(id), string(client), string(url), string(path), string(trace)
	p.Events, p.Seen, p.Webhook = event.Set(events), event.Set(happened), store.WebhookStatus(webhook)
	p.CreatedAt = timeOf(created)
	return p, poller, err
}

// scanOnlyPrediction reads predictionColumns without the poller.
func scanOnlyPrediction(row pgx.CollectableRow) (store.Prediction, error) {
	p, _, err := scanPrediction(row)
	return p, err
}

// scanDelivery reads deliveryColumns.
func scanDelivery(rows pgx.Row) (d *delivery, prediction int64, err error) {
	d = new(delivery)
	var kind, state int16
	var endpoint []byte
	r := &d.Row
	err = rows.Scan(&d.N, &r.nonce, &prediction, &kind, &d.Redelivery, &state, &d.Attempts, &d.Due, &r.created, &endpoint, &d.Held, &r.owner, &r.lease)
	d.Event, d.State, d.Claimed, r.endpoint = event.Set(kind), store.DeliveryState(state), r.owner != 0, string(endpoint)
	r.idle = d.State == store.DeliveryPending && !d.Claimed
	return d, prediction, err
}

// begin opens the transaction and reads what the jobs are about.
func (u *unit) begin(jobs []*job) error {
	var refs []int64
	var keys [][]byte
	for _, j := range jobs {
		refs = append(refs, j.refs...)
		for _, k := range j.keys {
			if k != nil {
				keys = append(keys, k)
			}
		}
	}
	return u.load(refs, keys, numbersPerJob*len(jobs), true)
}

// load reads and locks predictions and their deliveries.
func (u *unit) load(refs []int64, keys [][]byte, numbers int, begin bool) error {
	if refs == nil {
		refs = []int64{}
	}
	if keys == nil {
		keys = [][]byte{}
	}
	refs, orders := splitRefs(refs)
	var b pgx.Batch
	if begin {
		b.Queue("BEGIN")
		b.Queue(settings)
	}
	named := len(refs) > 0 || len(keys) > 0
	if named {
		b.Queue(lockPredictions, refs, keys)
		b.Queue(lockDeliveries, refs, keys)
	}
	if len(orders) > 0 {
		b.Queue(lockOrders, u.s.inbox.locks(orders))
		b.Queue(lockEvents, orders)
	}
	if u.storing != nil {
		u.storing.ask(&b)
	}
	if numbers > 0 {
		b.Queue(nextNumbers, numbers)
	}
	res := u.conn.SendBatch(u.ctx, &b)
	err := func() error {
		if begin {
			for range 2 {
				if _, err := res.Exec(); err != nil {
					return err
				}
			}
		}
		if named {
			if err := u.receive(res, keys); err != nil {
				return err
			}
		}
		if len(orders) > 0 {
			if err := u.receiveEvents(res, orders); err != nil {
				return err
			}
		}
		if u.storing != nil {
			if err := u.storing.receive(res); err != nil {
				return err
			}
		}
		if numbers > 0 {
			more, err := collectNext(res, pgx.RowTo[int64])
			u.numbers = append(u.numbers, more...)
			return err
		}
		return nil
	}()
	return errors.Join(err, res.Close())
}

// receive takes in the predictions and deliveries that load asked for.
func (u *unit) receive(res pgx.BatchResults, keys [][]byte) error {
	rows, err := res.Query()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if _, looked := u.byKey[string(k)]; !looked {
			u.byKey[string(k)] = nil
		}
	}
	fresh := make(map[int64]*tracked)
	for rows.Next() {
		p, poller, err := scanPrediction(rows)
		if err != nil {
			rows.Close()
			return err
		}
		if u.byRef[p.Ref] != nil {
			continue // read before, and perhaps changed since
		}
		t := &tracked{Entry: ledger.Entry[row]{Prediction: p}, poller: poller}
		u.byRef[p.Ref], fresh[p.Ref] = t, t
		if k := ledger.PredictionKey(p.API, p.ID); k != nil {
			u.byKey[string(k)] = t
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if rows, err = res.Query(); err != nil {
		return err
	}
	for rows.Next() {
		d, ref, err := scanDelivery(rows)
		if err != nil {
			rows.Close()
			return err
		}
		if t := fresh[ref]; t != nil {
			t.Deliveries = append(t.Deliveries, d)
		}
	}
	for _, t := range fresh {
		slices.SortFunc(t.Deliveries, func(a, b *delivery) int { return cmp.Compare(a.N, b.N) })
	}
	return rows.Err()
}

const (
	deletePredictions = "DELETE FROM webhook_predictions WHERE ref = ANY($1)"
	insertPredictions = `INSERT INTO webhook_predictions (ref, key, api, id, client, url, events, poll_path, credential, token, traceparent, test, body, created, happened, webhook, poller)
		SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[], $7::smallint[], $8::bytea[], $9::bytea[], $10::bytea[],
			$11::bytea[], $12::boolean[], $13::bytea[], $14::bigint[], $15::smallint[], $16::smallint[], $17::bigint[])`
	// updatePredictions finds each row by its key, where an UPDATE that joins
	// could read the whole table.
	updatePredictions = insertPredictions + ` ON CONFLICT (ref) DO UPDATE SET key = excluded.key, api = excluded.api, id = excluded.id, client = excluded.client,
		url = excluded.url, events = excluded.events, poll_path = excluded.poll_path, credential = excluded.credential, token = excluded.token,
		traceparent = excluded.traceparent, test = excluded.test, body = excluded.body, happened = excluded.happened, webhook = excluded.webhook, poller = excluded.poller`
	insertDeliveries = `INSERT INTO webhook_deliveries (n, nonce, prediction, event, redelivery, state, attempts, due, created, endpoint, held, owner, lease, payload)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::boolean[], $6::smallint[], $7::integer[], $8::bigint[], $9::bigint[],
			$10::bytea[], $11::boolean[], $12::bigint[], $13::bigint[], $14::bigint[])`
	updateDeliveries = insertDeliveries + ` ON CONFLICT (n) DO UPDATE SET state = excluded.state, attempts = excluded.attempts, due = excluded.due,
		endpoint = excluded.endpoint, held = excluded.held, owner = excluded.owner, lease = excluded.lease`
	insertPayloads = "INSERT INTO webhook_payloads (n, body) SELECT * FROM unnest($1::bigint[], $2::bytea[])"
	insertAttempts = `INSERT INTO webhook_attempts (id, delivery, prediction, event, url, status, number, at, took, response, error, exception)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::bytea[], $6::integer[], $7::integer[], $8::bigint[], $9::bigint[],
			$10::bytea[], $11::bytea[], $12::boolean[])`
)

// predictionRows are predictions by column.
type predictionRows struct {
	ref, created, poller                                                  [](int64)
	key, api, id, client, url, path, credential, token, traceparent, body [][]byte
	events, happened, webhook                                             []int16
	test                                                                  []bool
}

func (r *predictionRows) add(t *tracked) {
	r.ref = append(r.ref, t.Ref)
	r.key = append(r.key, ledger.PredictionKey(t.API, t.ID))
	r.api = append(r.api, []byte(t.API))
	r.id = append(r.id, []byte(t.ID))
	r.client = append(r.client, []byte(t.Client))
	r.url = append(r.url, []byte(t.URL))
	r.events = append(r.events, int16(t.Events))
	r.path = append(r.path, []byte(t.PollPath))
	r.credential = append(r.credential, t.Credential)
	r.token = append(r.token, t.Token)
	r.traceparent = append(r.traceparent, []byte(t.Traceparent))
	r.test = append(r.test, t.Test)
	r.body = append(r.body, t.Body)
	r.created = append(r.created, t.CreatedAt.UnixMilli())
	r.happened = append(r.happened, int16(t.Seen))
	r.webhook = append(r.webhook, int16(t.Webhook))
	r.poller = append(r.poller, t.poller)
}

func (r *predictionRows) queue(b *pgx.Batch, sql string) {
	if len(r.ref) > 0 {
		b.Queue(sql, r.ref, r.key, r.api, r.id, r.client, r.url, r.events, r.path, r.credential, r.token, r.traceparent, r.test, r.body, r.created, r.happened, r.webhook, r.poller)
	}
}

// deliveryRows are deliveries by column.
type deliveryRows struct {
	n, nonce, prediction, due, created, owner, lease, payload []int64
	event, state                                              []int16
	redelivery, held                                          []bool
	attempts                                                  []int32
	endpoint                                                  [][]byte
}

func (r *deliveryRows) add(ref int64, d *delivery) {
	if !d.Claimed {
		d.Row.owner = 0
	}
	r.n = append(r.n, d.N)
	r.nonce = append(r.nonce, d.Row.nonce)
	r.prediction = append(r.prediction, ref)
	r.event = append(r.event, int16(d.Event))
	r.redelivery = append(r.redelivery, d.Redelivery)
	r.state = append(r.state, int16(d.State))
	r.attempts = append(r.attempts, int32(d.Attempts))
	r.due = append(r.due, d.Due)
	r.created = append(r.created, d.Row.created)
	r.endpoint = append(r.endpoint, []byte(d.Row.endpoint))
	r.held = append(r.held, d.Held)
	r.owner = append(r.owner, d.Row.owner)
	r.lease = append(r.lease, d.Row.lease)
	r.payload = append(r.payload, d.Shared)
}

func (r *deliveryRows) queue(b *pgx.Batch, sql string) {
	if len(r.n) > 0 {
		b.Queue(sql, r.n, r.nonce, r.prediction, r.event, r.redelivery, r.state, r.attempts, r.due, r.created, r.endpoint, r.held, r.owner, r.lease, r.payload)
	}
}

// flush writes what has changed and commits.
func (u *unit) flush() error {
	var b pgx.Batch
	if u.storing != nil {
		u.storing.queue(&b)
	}
	u.queuePredictions(&b)
	u.queueDeliveries(&b)
	u.queueEvents(&b)
	u.queueAttempts(&b)
	u.queueAnswers(&b)
	b.Queue("COMMIT")
	res := u.conn.SendBatch(u.ctx, &b)
	if u.storing == nil {
		return res.Close()
	}
	err := u.storing.freed(res)
	return errors.Join(err, res.Close())
}

func (u *unit) queuePredictions(b *pgx.Batch) {
	var gone []int64
	var fresh, dirty predictionRows
	for _, t := range u.touched {
		switch {
		case t.gone && !t.Fresh:
			gone = append(gone, t.Ref)
		case t.gone:
		case t.Fresh:
			fresh.add(t)
		case t.Changed != 0:
			dirty.add(t)
		}
	}
	// What is deleted may have had a token that another gets.
	if len(gone) > 0 {
		b.Queue(deletePredictions, gone)
	}
	dirty.queue(b, updatePredictions)
	fresh.queue(b, insertPredictions)
}

func (u *unit) queueDeliveries(b *pgx.Batch) {
	var fresh, dirty deliveryRows
	var numbers []int64
	var payloads [][]byte
	for _, t := range u.touched {
		for _, d := range t.Deliveries {
			switch {
			case d.Fresh:
				fresh.add(t.Ref, d)
				if d.Shared == 0 {
					numbers = append(numbers, d.N)
					payloads = append(payloads, orEmpty(d.Payload))
				}
			case d.Changed != 0:
				dirty.add(t.Ref, d)
			}
		}
	}
	fresh.queue(b, insertDeliveries)
	dirty.queue(b, updateDeliveries)
	if len(numbers) > 0 {
		b.Queue(insertPayloads, numbers, payloads)
	}
}

// orEmpty returns b, or an empty slice in place of nil, which would be NULL.
func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (u *unit) queueAttempts(b *pgx.Batch) {
	if len(u.attempts) == 0 {
		return
	}
	var id, delivery, prediction, at, took []int64
	var event []int16
	var status, number []int32
	var url, response, text [][]byte
	var exception []bool
	for _, a := range u.attempts {
		id = append(id, a.id)
		delivery = append(delivery, a.delivery.N)
		prediction = append(prediction, a.prediction)
		event = append(event, int16(a.delivery.Event))
		url = append(url, []byte(a.URL))
		status = append(status, int32(a.Status))
		number = append(number, int32(a.Number))
		at = append(at, a.At.UnixMilli())
		took = append(took, int64(a.Took))
		response = append(response, []byte(a.Response))
		text = append(text, []byte(a.Error))
		exception = append(exception, a.Exception)
	}
	b.Queue(insertAttempts, id, delivery, prediction, event, url, status, number, at, took, response, text, exception)
}

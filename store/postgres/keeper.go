package postgres

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
)

// keeper is the connection for heartbeats. It is not one of the pool's, so that
// neither much work nor a server without connections left makes a node look gone.
type keeper struct {
	mu   sync.Mutex
	conn *pgx.Conn
}

// use runs f with the connection, and once more with a new one if that breaks.
func (k *keeper) use(ctx context.Context, c *connector, f func(context.Context, *pgx.Conn) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for again := false; ; again = true {
		if k.conn == nil || k.conn.IsClosed() {
			var err error
			if k.conn, err = c.connect(ctx); err != nil {
				return err
			}
		}
		err := f(ctx, k.conn)
		if err == nil || again || !k.conn.IsClosed() || ctx.Err() != nil {
			return err
		}
	}
}

// close closes the connection.
func (k *keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != nil {
		disconnect(k.conn)
		k.conn = nil
	}
}

// beatWith runs f with the connection for heartbeats. If the server has no connection
// left to replace that, f gets one of the pool's.
func (n *nodes) beatWith(f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
	defer cancel()
	err := n.s.keeper.use(ctx, n.s.connector, f)
	if serverFull(err) {
		return n.s.with(ctx, f)
	}
	return err
}

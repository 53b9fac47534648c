package engine

import (
	"context"

	"github.com/beaver-raft/beaver/internal/cluster"
)

// Node is this node's id.
func (e *Engine) Node() uint64 { return e.opts.Node }

// ReadCatalog calls read with this node's copy of the catalog, which may be late. read must not keep it.
func (e *Engine) ReadCatalog(ctx context.Context, read func(*cluster.Catalog)) error {
	if err := e.host.StaleRead(ctx, catalogShard, func() { read(e.catalog.catalog) }); err != nil {
		return hostError(err)
	}
	return nil
}

// AwaitCatalog waits until this node's copy of the catalog is as wished, and looks again whenever it has changed. The wish must not keep the
// catalog. An error says that ctx ended or the node stops.
func (e *Engine) AwaitCatalog(ctx context.Context, wished func(*cluster.Catalog) bool) error {
	for {
		further := e.catalog.reach.next() // before the look: what comes after it is not missed
		so := false
		if err := e.ReadCatalog(ctx, func(c *cluster.Catalog) { so = wished(c) }); err != nil || so {
			return err
		}
		select {
		case <-further:
		case <-ctx.Done():
			return contextError(ctx.Err())
		case <-e.background.Done():
			return errStopping()
		}
	}
}

// ChangeCatalog carries out a command on the catalog and returns its outcome once it is committed and applied where the catalog is
// led. An error says that there is none, or that it is not known.
func (e *Engine) ChangeCatalog(ctx context.Context, encode func(dst []byte) []byte) (cluster.Code, error) {
	r, err := e.catalog.propose(ctx, encode)
	if r.Code != cluster.CodeOK {
		return r.Code, nil
	}
	return r.Code, err
}

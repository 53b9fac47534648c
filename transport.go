package beaver

import (
	"net"
	"net/http"
	"time"
)

const (
	// readBytesMax bounds one message from the server: 1000 leased jobs a message at most, and the server splits by size.
	readBytesMax = 64 << 20
	// silenceMax is how long a connection may be silent before it is probed, and probeMax how long the probe may take.
	silenceMax = 5 * time.Second
	probeMax   = 5 * time.Second
	dialMax    = 5 * time.Second
)

// newHTTPClient returns a client with a connection of its own, HTTP/2 in clear text for http URLs.
func (c *Client) newHTTPClient() *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	dialer := &net.Dialer{Timeout: dialMax, KeepAlive: 15 * time.Second}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		Protocols:           &protocols,
		TLSHandshakeTimeout: dialMax,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout:               silenceMax,
			PingTimeout:                   probeMax,
			MaxReceiveBufferPerConnection: 16 << 20,
			MaxReceiveBufferPerStream:     8 << 20,
		},
	}
	c.idle = append(c.idle, t)
	return &http.Client{Transport: t}
}

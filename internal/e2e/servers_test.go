package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// Ports of serveFlows.
const (
	portFlows = 4445 // echo
	portPages = 4447 // one large page
)

// largeDownload is more than fits into all buffers on the way.
const largeDownload = 64 << 20

// largePage is the address of a page that is cut off before its end.
func largePage(addr netip.Addr) string { return "http://" + at(addr, portPages).String() + "/" }

// serveFlows serves, on addresses of the internet, connections that are to be cut
// off. With the test their servers forget them; the lab's own would go on about
// them, and the router's answers would be found in the next test.
func serveFlows(t testing.TB, lab *testnet.Lab, addrs ...netip.Addr) {
	t.Helper()
	for _, addr := range addrs {
		serve(t, lab, at(addr, portFlows), func(conn net.Conn) {
			_, _ = io.Copy(conn, conn) // until it is cut off
		})
		serve(t, lab, at(addr, portPages), writePage)
	}
}

func serve(t testing.TB, lab *testnet.Lab, addr netip.AddrPort, handle func(net.Conn)) {
	t.Helper()
	ln, err := lab.Internet.Listen("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(t.Context(), func() {
				_ = conn.(*net.TCPConn).SetLinger(0) // with a reset, so that nothing is sent again
				_ = conn.Close()
			})
			go handle(conn)
		}
	}()
}

// writePage answers a request with the large page.
func writePage(conn net.Conn) {
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return
	}
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", largeDownload)
	block := make([]byte, 64<<10)
	for range largeDownload / len(block) {
		if _, err := conn.Write(block); err != nil {
			return
		}
	}
}

// The reference implementation of yamux as the other side of a test: over plain TCP, as server or client, so that our multiplexer
// meets one that is not ours. Lines on stdout say what happened.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

func main() {
	listen := flag.Bool("listen", false, "be the server")
	address := flag.String("address", "127.0.0.1:0", "where to listen, or whom to dial")
	streams := flag.Int("streams", 100, "client: streams at a time")
	size := flag.Int("bytes", 100000, "client: bytes each stream sends and must hear again")
	window := flag.Uint("window", 256*1024, "the largest window of a stream")
	leaveAfter := flag.Int("leave-after", 0, "server: says go-away after so many streams")
	flag.Parse()
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = true
	config.KeepAliveInterval = 100 * time.Millisecond
	config.MaxStreamWindowSize = uint32(*window)
	config.LogOutput = os.Stderr
	var err error
	if *listen {
		err = serve(*address, config, *leaveAfter)
	} else {
		err = call(*address, config, *streams, *size)
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// serve echoes the streams of one connection after another, until stdin ends.
func serve(address string, config *yamux.Config, leaveAfter int) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("listening", listener.Addr().(*net.TCPAddr).Port)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go echoAll(conn, config, leaveAfter)
	}
}

func echoAll(conn net.Conn, config *yamux.Config, leaveAfter int) {
	session, err := yamux.Server(conn, config)
	if err != nil {
		fmt.Println("failed:", err)
		return
	}
	for accepted := 1; ; accepted++ {
		stream, err := session.AcceptStream()
		if err != nil {
			fmt.Println("session ended:", err)
			return
		}
		if accepted == leaveAfter {
			session.GoAway()
		}
		go echo(stream)
	}
}

// echo says the first byte's worth: 'e' echoes until the end and ends, 'h' hears all before it answers, 'r' closes at once.
func echo(stream *yamux.Stream) {
	kind := make([]byte, 1)
	if _, err := io.ReadFull(stream, kind); err != nil {
		stream.Close()
		return
	}
	switch kind[0] {
	case 'e':
		io.Copy(stream, stream)
	case 'h':
		heard, _ := io.Copy(io.Discard, stream)
		fmt.Fprintf(stream, "heard %d", heard)
	}
	stream.Close()
}

// call opens streams at once, each of which sends while it reads, ends its half and must hear the same again.
func call(address string, config *yamux.Config, streams, size int) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	session, err := yamux.Client(conn, config)
	if err != nil {
		return err
	}
	if _, err := session.Ping(); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	failures := make(chan error, streams)
	var wait sync.WaitGroup
	for i := range streams {
		wait.Add(1)
		go func() {
			defer wait.Done()
			if err := roundTrip(session, i, size); err != nil {
				failures <- fmt.Errorf("stream %d: %w", i, err)
			}
		}()
	}
	wait.Wait()
	close(failures)
	for failure := range failures {
		return failure
	}
	// The other side may close before this call has looked whether its frame left.
	if err := session.GoAway(); err != nil && !errors.Is(err, yamux.ErrSessionShutdown) {
		return fmt.Errorf("go-away: %w", err)
	}
	select {
	case <-session.CloseChan():
	case <-time.After(5 * time.Second):
		return fmt.Errorf("the server did not close after the go-away")
	}
	fmt.Println("done")
	return nil
}

func roundTrip(session *yamux.Session, number, size int) error {
	stream, err := session.OpenStream()
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		block := make([]byte, 500+number*977%60000)
		for at := 0; at < size; {
			count := min(len(block), size-at)
			for i := range count {
				block[i] = byte((at + i + number) % 251)
			}
			if _, err := stream.Write(block[:count]); err != nil {
				sent <- err
				return
			}
			at += count
		}
		sent <- stream.Close()
	}()
	heard, err := io.ReadAll(stream)
	if err != nil {
		return err
	}
	if err := <-sent; err != nil {
		return err
	}
	if len(heard) != size {
		return fmt.Errorf("%d bytes came back of %d", len(heard), size)
	}
	for i, each := range heard {
		if each != byte((i+number)%251) {
			return fmt.Errorf("a wrong byte at %d", i)
		}
	}
	return nil
}

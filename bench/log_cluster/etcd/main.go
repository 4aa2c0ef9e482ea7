// main.go - the load of load.c, for etcd: so many puts in flight, each as soon as the
// one before it is answered. Prints the same lines as load.c.
//
// It is Go with etcd's own client (clientv3), as etcd's `benchmark put` is: goroutines
// share connections, each a multiplexed HTTP/2 stream.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"go.etcd.io/etcd/clientv3"
	"google.golang.org/grpc/grpclog"
)

// The clock of CLOCK_MONOTONIC, which other processes read too.
func now() int64 {
	var ts syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

func main() {
	nodes := flag.String("nodes", "", "HOST:PORT,...")
	inFlight := flag.Int("in-flight", 32, "requests under way")
	conns := flag.Int("connections", 8, "connections")
	seconds := flag.Float64("seconds", 5, "0: until SIGINT")
	value := flag.Int("value", 256, "bytes")
	keys := flag.Int("keys", 10000, "different keys")
	timeout := flag.Duration("timeout", 5*time.Second, "of one request")
	flag.Parse()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(os.NewFile(0, os.DevNull), os.NewFile(0, os.DevNull), os.NewFile(0, os.DevNull)))

	var clients []*clientv3.Client
	for i := 0; i < *conns; i++ {
		c, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(*nodes, ","), DialTimeout: 5 * time.Second})
		if err != nil {
			fmt.Fprintln(os.Stderr, "etcd-load:", err)
			os.Exit(1)
		}
		clients = append(clients, c)
	}
	var stop, failed int64
	var lock sync.Mutex
	var term uint64
	var last int64
	lat := make([][]int64, *inFlight)
	chance := make([]byte, 1<<22) // letters drawn by chance: what is written does not compress
	for i := range chance {
		chance[i] = byte('0' + rand.Intn(75))
	}
	var wait sync.WaitGroup

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() { <-signals; atomic.StoreInt64(&stop, 1) }()
	if *seconds > 0 {
		time.AfterFunc(time.Duration(*seconds*float64(time.Second)), func() { atomic.StoreInt64(&stop, 1) })
	}
	begin := now()
	for i := 0; i < *inFlight; i++ {
		wait.Add(1)
		go func(i int) {
			defer wait.Done()
			c := clients[i%len(clients)]
			for n := i; atomic.LoadInt64(&stop) == 0; n += *inFlight {
				start := now()
				ctx, cancel := context.WithTimeout(context.Background(), *timeout)
				r, err := c.Put(ctx, fmt.Sprintf("k%07d", n%*keys), string(chance[n*509%(len(chance)-4097):][:*value]))
				cancel()
				if err != nil {
					atomic.AddInt64(&failed, 1)
					time.Sleep(3 * time.Millisecond)
					continue
				}
				at := now()
				lat[i] = append(lat[i], at-start)
				lock.Lock()
				if r.Header.RaftTerm > term {
					fmt.Printf("term %d %d %d\n", r.Header.RaftTerm, last, at)
					term = r.Header.RaftTerm
				}
				last = at
				lock.Unlock()
			}
		}(i)
	}
	wait.Wait()
	elapsed := float64(now()-begin) / 1e9
	var all []int64
	for _, l := range lat {
		all = append(all, l...)
	}
	sort.Slice(all, func(a, b int) bool { return all[a] < all[b] })
	at := func(q float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return float64(all[int(q*float64(len(all)-1))]) / 1e6
	}
	fmt.Printf("result ops=%d seconds=%.3f rate=%.0f p50_ms=%.3f p99_ms=%.3f p999_ms=%.3f max_ms=%.3f retries=%d\n",
		len(all), elapsed, float64(len(all))/elapsed, at(0.5), at(0.99), at(0.999), at(1), failed)
}

package access

import (
	"net/http"
	"strconv"
	"time"
)

// A browser that has signed in once is known by a cookie, and has attempts at the password of its own:
// whoever uses up those of everybody keeps it out no longer. It lets nobody in.
const (
	deviceName = "torbpf_device"
	devicePath = "/v1/session"
	deviceLife = 365 * 24 * time.Hour
	maxDevices = 32 // the one that signed in longest ago goes

	deviceBurst = 5
	devicePause = 20 * time.Second
)

// SpentHeader is how the process that serves the page says that a client has used up its attempts: then
// only a browser that is known may go on. Its value is for how many seconds.
const SpentHeader = "Torbpf-Spent"

// device is a browser that has signed in once.
type device struct {
	attempts *Bucket
	seen     time.Time
}

// deviceOf finds out which browser asks; nil for one that is not known.
func (k *Keeper) deviceOf(r *http.Request) (*device, string) {
	for _, c := range r.CookiesNamed(deviceName) {
		if d := k.devices[digestOf(c.Value)]; d != nil {
			return d, c.Value
		}
	}
	return nil, ""
}

// NamesDevice tells whether a request comes from a browser that says it is known.
func NamesDevice(r *http.Request) bool { return len(r.CookiesNamed(deviceName)) > 0 }

// attemptsOf are those that a request takes one of.
func (k *Keeper) attemptsOf(r *http.Request) (*Bucket, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d, _ := k.deviceOf(r); d != nil {
		return d.attempts, nil
	}
	if spent := r.Header.Get(SpentHeader); spent != "" {
		seconds, err := strconv.Atoi(spent)
		if err != nil || seconds < 0 {
			seconds = 0
		}
		return nil, TooOften{time.Duration(seconds) * time.Second}
	}
	return k.attempts, nil
}

// remember knows a browser that has just signed in from now on, and returns its cookie.
func (k *Keeper) remember(r *http.Request) *http.Cookie {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, value := k.deviceOf(r)
	if d == nil {
		if len(k.devices) >= maxDevices {
			delete(k.devices, oldest(k.devices, func(d *device) time.Time { return d.seen }))
		}
		d, value = &device{attempts: NewBucket(deviceBurst, devicePause)}, secret()
		k.devices[digestOf(value)] = d
	}
	d.seen = time.Now()
	return &http.Cookie{
		Name: deviceName, Value: value, Path: devicePath, MaxAge: int(deviceLife / time.Second),
		HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
}

package owner

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

const (
	testPasswd = "root:x:0:0:root:/root:/bin/sh\n# a comment:x:7:7::/:\nbroken:x:y:z::/:\nshort:x:1\napp:x:1000:1001::/srv/app:/bin/false\n1234:x:77:78::/named:\nhomeless:x:5:5:::\nagain:x:1000:9::/other:\n"
	testGroup  = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nlog:x:4:app\nlog2:x:4:app\nbad:x:q:app\n44:x:45:\n"
)

func TestResolveUser(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		spec string
		want Account
	}{
		{"", Account{0, 0, []uint32{10}, "/root"}},
		{"root", Account{0, 0, []uint32{10}, "/root"}},
		{"app", Account{1000, 1001, []uint32{10, 4}, "/srv/app"}},
		{"1000", Account{1000, 1001, []uint32{10, 4}, "/srv/app"}}, // the first with the number
		{"app:log", Account{1000, 4, nil, "/srv/app"}},             // an explicit group alone
		{"app:0", Account{1000, 0, nil, "/srv/app"}},
		{"4711", Account{4711, 0, nil, "/"}},
		{"4711:4712", Account{4711, 4712, nil, "/"}},
		{"1234", Account{77, 78, nil, "/named"}}, // a name goes before a number
		{"0:44", Account{0, 45, nil, "/root"}},
		{"homeless", Account{5, 5, nil, "/"}},
	} {
		got, err := resolveUser(c.spec, []byte(testPasswd), []byte(testGroup))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q is %+v, %v; wants %+v", c.spec, got, err, c.want)
		}
	}
	for spec, word := range map[string]string{
		"nobody": "nobody", "app:nogroup": "nogroup", "broken": "broken", "short": "short", "4294967295": "4294967295", "-1": "-1", "1:4294967295": "group", "a b:": "a b",
	} {
		if got, err := resolveUser(spec, []byte(testPasswd), []byte(testGroup)); !errors.Is(err, ErrUser) || !strings.Contains(err.Error(), word) {
			t.Errorf("%q is %+v, %v", spec, got, err)
		}
	}
	if _, err := account("app", nil); !errors.Is(err, ErrUser) || !strings.Contains(err.Error(), "disk image") {
		t.Errorf("a name in a disk image: %v", err)
	}
	if a, err := account("7:8", nil); err != nil || a.UID != 7 || a.GID != 8 {
		t.Errorf("numbers in a disk image: %+v %v", a, err)
	}
}

func FuzzResolveUser(f *testing.F) {
	f.Add("app:log", []byte(testPasswd), []byte(testGroup))
	f.Add("7", []byte("::7:7:::"), []byte(":::"))
	f.Fuzz(func(t *testing.T, spec string, passwd, group []byte) {
		a, err := resolveUser(spec, passwd, group)
		if err == nil && a.Home == "" {
			t.Errorf("%q has no home", spec)
		}
	})
}
